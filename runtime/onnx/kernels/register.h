#include <stddef.h>
#include <stdint.h>

// What Go calls. Errors are texts that the caller frees, or NULL.
char *pelton_load(const char *library); // before anything else
char *pelton_add(void *session_options);
void pelton_level(int level);
int pelton_amx(void); // whether this process, which may use AMX, gets the right numbers from it; on Linux on x86-64
void pelton_image(const char *ptx); // kernels for NVIDIA GPUs, for as long as the process lives

// Tensors in the memory of a session's device, or of the host beside it, which the caller ends before the
// allocator; those made of data do not own it.
char *pelton_allocator(void *session, const char *memory, int device, void **info, void **allocator);
char *pelton_tensor(void *allocator, int type, const int64_t *dims, size_t rank, void **value, void **data);
char *pelton_view(void *info, void *data, size_t bytes, int type, const int64_t *dims, size_t rank, void **value);
void pelton_free_allocator(void *info, void *allocator);
void pelton_free_tensor(void *value);

char *pelton_run_entry(void *run_options, const char *key, const char *value);

// CUDA's runtime, which the library's provider has loaded.
char *pelton_cuda_use(int device); // for the calling thread, before it copies
char *pelton_cuda_copy(void *to, const void *from, size_t bytes, int to_host);
