# Compile libllama's ~190 small model files in batches of 24: half the CPU time, the same library.
# Only this target: ggml's own sources do not survive being compiled together.
if(PROJECT_NAME STREQUAL "llama.cpp")
  cmake_language(DEFER CALL set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 24)
endif()
