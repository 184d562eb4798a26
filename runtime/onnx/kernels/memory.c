//go:build cgo && (linux || darwin)

#include "kernel.h"
#include "register.h"

enum { ORT_DEVICE_ALLOCATOR = 0, ORT_MEMORY_DEFAULT = 0 }; // OrtAllocatorType, OrtMemType

char *pelton_allocator(void *session, const char *memory, int device, void **allocator) {
    OrtMemoryInfo *info;
    char *error = take(ort(CreateMemoryInfo)(memory, ORT_DEVICE_ALLOCATOR, device, ORT_MEMORY_DEFAULT, &info));
    if (error) return error;
    error = take(ort(CreateAllocator)(session, info, (OrtAllocator **)allocator));
    ort(ReleaseMemoryInfo)(info);
    return error;
}

char *pelton_tensor(void *allocator, int type, const int64_t *dims, size_t rank, void **value, void **data) {
    char *error = take(ort(CreateTensorAsOrtValue)(allocator, dims, rank, type, (OrtValue **)value));
    if (error) return error;
    error = take(ort(GetTensorMutableData)(*value, data));
    if (error) ort(ReleaseValue)(*value);
    return error;
}

void pelton_free_allocator(void *allocator) { ort(ReleaseAllocator)(allocator); }
void pelton_free_tensor(void *value) { ort(ReleaseValue)(value); }
