#include <stddef.h>
#include <stdint.h>

// What Go calls. Errors are texts that the caller frees, or NULL.
char *pelton_load(const char *library); // before anything else
char *pelton_add(void *session_options);
void pelton_level(int level);

// Tensors in the memory of a session's device, or of the host beside it. The caller ends what it gets in the
// order value, allocator.
char *pelton_allocator(void *session, const char *memory, int device, void **allocator);
char *pelton_tensor(void *allocator, int type, const int64_t *dims, size_t rank, void **value, void **data);
void pelton_free_allocator(void *allocator);
void pelton_free_tensor(void *value);
