//go:build cgo && (linux || darwin)

#include "kernel.h"
#include "register.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { ORT_DEVICE_ALLOCATOR = 0, ORT_MEMORY_DEFAULT = 0 }; // OrtAllocatorType, OrtMemType

char *pelton_allocator(void *session, const char *memory, int device, void **info, void **allocator) {
    char *error = take(ort(CreateMemoryInfo)(memory, ORT_DEVICE_ALLOCATOR, device, ORT_MEMORY_DEFAULT, (OrtMemoryInfo **)info));
    if (error) return error;
    error = take(ort(CreateAllocator)(session, *info, (OrtAllocator **)allocator));
    if (error) ort(ReleaseMemoryInfo)(*info);
    return error;
}

char *pelton_tensor(void *allocator, int type, const int64_t *dims, size_t rank, void **value, void **data) {
    char *error = take(ort(CreateTensorAsOrtValue)(allocator, dims, rank, type, (OrtValue **)value));
    if (error) return error;
    error = take(ort(GetTensorMutableData)(*value, data));
    if (error) ort(ReleaseValue)(*value);
    return error;
}

char *pelton_view(void *info, void *data, size_t bytes, int type, const int64_t *dims, size_t rank, void **value) {
    return take(ort(CreateTensorWithDataAsOrtValue)(info, data, bytes, dims, rank, type, (OrtValue **)value));
}

void pelton_free_allocator(void *info, void *allocator) {
    ort(ReleaseAllocator)(allocator);
    ort(ReleaseMemoryInfo)(info);
}

void pelton_free_tensor(void *value) { ort(ReleaseValue)(value); }

char *pelton_run_entry(void *options, const char *key, const char *value) {
    return take(ort(AddRunConfigEntry)(options, key, value));
}

static int (*cuda_set_device)(int);
static int (*cuda_copy)(void *, const void *, size_t, int);
static const char *(*cuda_error)(int);

static char *cuda_failure(const char *what, int code) {
    char text[256];
    if (!code) return NULL;
    snprintf(text, sizeof text, "CUDA: %s: %s", what, cuda_error(code));
    return strdup(text);
}

// cuda_load finds the runtime that is loaded already: a second one would not know the first one's memory.
static char *cuda_load(void) {
    static const char *const names[] = {"libcudart.so.14", "libcudart.so.13", "libcudart.so.12"};
    void *handle = NULL;
    if (cuda_copy) return NULL;
    for (size_t i = 0; !handle && i < sizeof names / sizeof *names; i++) handle = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) return strdup("CUDA's runtime (libcudart.so) is not loaded");
    cuda_set_device = (int (*)(int))dlsym(handle, "cudaSetDevice");
    cuda_error = (const char *(*)(int))dlsym(handle, "cudaGetErrorString");
    int (*copy)(void *, const void *, size_t, int) = (int (*)(void *, const void *, size_t, int))dlsym(handle, "cudaMemcpy");
    if (!cuda_set_device || !cuda_error || !copy) return strdup("CUDA's runtime lacks a function");
    cuda_copy = copy;
    return NULL;
}

char *pelton_cuda_use(int device) {
    char *error = cuda_load();
    return error ? error : cuda_failure("set device", cuda_set_device(device));
}

char *pelton_cuda_copy(void *to, const void *from, size_t bytes, int to_host) {
    return cuda_failure("copy", cuda_copy(to, from, bytes, to_host ? 2 : 1)); // cudaMemcpyDeviceToHost, HostToDevice
}
