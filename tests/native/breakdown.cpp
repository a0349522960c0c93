// llama.cpp's own account of what a context takes, which its C API does not offer: `llama_get_memory_breakdown`
// is C++ and returns a std::map (src/llama-ext.h, which is not installed, so it is declared here).
#include "ggml-backend.h"
#include "llama.h"

#include <cstdio>
#include <map>
#include <string>

struct llama_memory_breakdown_data {
    size_t model   = 0;
    size_t context = 0;
    size_t compute = 0;
};

using llama_memory_breakdown = std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>;

LLAMA_API llama_memory_breakdown llama_get_memory_breakdown(const struct llama_context * ctx);

// Writes one line "device<TAB>model<TAB>context<TAB>compute" of bytes for each device into `text`. Host memory
// is "CPU". Returns how many characters that takes.
extern "C" int breakdown(const struct llama_context * ctx, char * text, int n_text) {
    std::map<std::string, llama_memory_breakdown_data> by_device;
    for (const auto & [buft, used] : llama_get_memory_breakdown(ctx)) {
        ggml_backend_dev_t device = ggml_backend_buft_get_device(buft);
        const bool on_host = ggml_backend_buft_is_host(buft) || device == nullptr;
        auto & sum = by_device[on_host ? "CPU" : ggml_backend_dev_name(device)];
        sum.model   += used.model;
        sum.context += used.context;
        sum.compute += used.compute;
    }
    std::string lines;
    for (const auto & [name, sum] : by_device) {
        lines += name + "\t" + std::to_string(sum.model) + "\t" + std::to_string(sum.context) + "\t" +
                 std::to_string(sum.compute) + "\n";
    }
    return snprintf(text, n_text, "%s", lines.c_str());
}
