/* A stand-in for libnvidia-ml.so.1 whose answers come from the file $FAKE_NVML_STATE, read again on every call.
 *
 * Lines are `key=value`; `key.1=value` is for the second GPU and wins over `key`. `fail` holds an nvmlReturn_t for
 * every function, `fail.1` for every function of the second GPU, `fail.<C function>` for that function.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
typedef int nvmlReturn_t;
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { NO_GPU = -1, MAX_STATE_BYTES = 16384, MAX_VALUE_BYTES = 2048 };

static const char *value_of(const char *key, char *out) {
    char text[MAX_STATE_BYTES];
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return NULL;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    size_t length = strlen(key);
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (!strncmp(line, key, length) && line[length] == '=')
            return strncpy(out, line + length + 1, MAX_VALUE_BYTES - 1);
    return NULL;
}

static const char *text_of(const char *key, int gpu, const char *otherwise, char *out) {
    char own_key[128];
    memset(out, 0, MAX_VALUE_BYTES);
    snprintf(own_key, sizeof own_key, "%s.%d", key, gpu);
    if (gpu >= 0 && value_of(own_key, out)) return out;
    return value_of(key, out) ? out : strcpy(out, otherwise);
}

static u64 number_of(const char *key, int gpu, u64 otherwise) {
    char out[MAX_VALUE_BYTES];
    const char *text = text_of(key, gpu, "", out);
    return *text ? strtoull(text, NULL, 0) : otherwise;
}

static nvmlReturn_t failure(const char *function, int gpu) {
    char key[128];
    snprintf(key, sizeof key, "fail.%s", function);
    u64 of_function = number_of(key, NO_GPU, 0);
    return (nvmlReturn_t)(of_function ? of_function : number_of("fail", gpu, 0));
}

static nvmlReturn_t copy(char *out, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

#define GPU ((int)(size_t)device - 1)
#define MAY_FAIL(gpu) do { nvmlReturn_t failed = failure(__func__, gpu); if (failed) return failed; } while (0)
#define NUMBER(function, type, key, otherwise) \
    nvmlReturn_t function(void *device, type *out) { \
        MAY_FAIL(GPU); \
        *out = (type)number_of(key, GPU, otherwise); \
        return SUCCESS; \
    }

nvmlReturn_t nvmlInitWithFlags(unsigned flags) { (void)flags; MAY_FAIL(NO_GPU); return SUCCESS; }
nvmlReturn_t nvmlInit_v2(void) { MAY_FAIL(NO_GPU); return SUCCESS; }
nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
        case 0: return "Success";
        case 3: return "Not Supported";
        case 4: return "Insufficient Permissions";
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char text[MAX_VALUE_BYTES];
    MAY_FAIL(NO_GPU);
    return copy(out, size, text_of("driver", NO_GPU, "580.65.06", text));
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    MAY_FAIL(NO_GPU);
    return copy(out, size, "13.580.65.06");
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) {
    MAY_FAIL(NO_GPU);
    *out = (unsigned)number_of("gpus", NO_GPU, 1);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    MAY_FAIL((int)index);
    if (index >= number_of("gpus", NO_GPU, 1)) return INVALID_ARGUMENT;
    *out = (void *)(size_t)(index + 1);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(void *device, char *out, unsigned size) {
    char text[MAX_VALUE_BYTES];
    MAY_FAIL(GPU);
    return copy(out, size, text_of("name", GPU, "NVIDIA GeForce RTX 4060", text));
}

nvmlReturn_t nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    char text[64];
    MAY_FAIL(GPU);
    snprintf(text, sizeof text, "GPU-fa4e0000-0000-0000-0000-%012d", GPU);
    return copy(out, size, text);
}

nvmlReturn_t nvmlDeviceGetIndex(void *device, unsigned *out) {
    MAY_FAIL(GPU);
    *out = (unsigned)GPU;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    MAY_FAIL(GPU);
    *major = (int)number_of("cc_major", GPU, 8);
    *minor = (int)number_of("cc_minor", GPU, 9);
    return SUCCESS;
}

typedef struct { u64 total, free, used; } Memory;

nvmlReturn_t nvmlDeviceGetMemoryInfo(void *device, Memory *out) {
    MAY_FAIL(GPU);
    out->total = number_of("total", GPU, 8ull << 30);
    out->used = number_of("used", GPU, 0);
    if (out->used > out->total) out->used = out->total;
    out->free = out->total - out->used;
    return SUCCESS;
}

typedef struct { unsigned version; u64 total, reserved, free, used; } Memory_v2;

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(void *device, Memory_v2 *out) {
    Memory memory;
    MAY_FAIL(GPU);
    nvmlDeviceGetMemoryInfo(device, &memory);
    out->reserved = number_of("reserved", GPU, 0);
    if (out->reserved > memory.used) out->reserved = memory.used;
    out->total = memory.total;
    out->used = memory.used - out->reserved;
    out->free = memory.free;
    return SUCCESS;
}

typedef struct { unsigned gpu, memory; } Utilization;

nvmlReturn_t nvmlDeviceGetUtilizationRates(void *device, Utilization *out) {
    MAY_FAIL(GPU);
    out->gpu = (unsigned)number_of("utilisation", GPU, 17);
    out->memory = (unsigned)number_of("memory_utilisation", GPU, 9);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *out) {
    (void)sensor;
    MAY_FAIL(GPU);
    *out = (unsigned)number_of("temperature", GPU, 55);
    return SUCCESS;
}

NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power_mw", 42000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit_mw", 115000)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, "pcie_generation", 4)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, "pcie_max_generation", 4)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, "pcie_width", 8)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, "pcie_max_width", 8)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, u64, "clocks_event_reasons", 1)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, u64, "clocks_event_reasons", 1)

typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } Process;

/* `<pid>:<bytes>,…`; without bytes they are not available, as under WSL. */
static nvmlReturn_t list(const char *key, int gpu, unsigned *count, Process *out) {
    char text[MAX_VALUE_BYTES];
    unsigned n = 0, room = *count;
    text_of(key, gpu, "", text);
    char *rest = text;
    for (char *item; (item = strsep(&rest, ","));) {
        if (!*item) continue;
        char *colon = strchr(item, ':');
        if (out && n < room)
            out[n] = (Process){(unsigned)atoi(item), colon ? strtoull(colon + 1, NULL, 0) : ~0ull, ~0u, ~0u};
        n++;
    }
    *count = n;
    return n && (!out || room < n) ? INSUFFICIENT_SIZE : SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *out) {
    MAY_FAIL(GPU);
    return list("compute", GPU, count, out);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, Process *out) {
    MAY_FAIL(GPU);
    return list("graphics", GPU, count, out);
}
