//go:build cgo && (linux || darwin)

#include "gpu.h"
#include "register.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

enum { MOST_DEVICES = 64 };

// The driver, and what of it is needed of each device.
static struct {
    int (*load)(void **module, const void *image);
    int (*find)(void **function, void *module, const char *name);
    int (*launch)(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared, void *stream, void **parameters, void **extra);
    int (*copy)(void *to, const void *from, size_t bytes, void *stream);
    int (*text)(int code, const char **);
    int (*device)(int *);
    int (*attribute)(int *, int which, int device);
} driver;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static gpu gpus[MOST_DEVICES];
static const char *image; // the compiled kernels

void pelton_image(const char *ptx) { image = ptx; }

static OrtStatus *check(const char *what, int code) {
    const char *text = NULL;
    if (!code) return NULL;
    if (driver.text) driver.text(code, &text);
    return invalid("CUDA driver: %s: %s", what, text ? text : "unknown error");
}

static OrtStatus *open_driver(void) {
    if (driver.attribute) return NULL;
    void *handle = dlopen("libcuda.so.1", RTLD_LAZY);
    if (!handle) return invalid("CUDA driver: %s", dlerror());
    const char *const names[] = {"cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel", "cuMemcpyDtoDAsync_v2", "cuGetErrorString", "cuCtxGetDevice", "cuDeviceGetAttribute"};
    void **const places[] = {(void **)&driver.load, (void **)&driver.find, (void **)&driver.launch, (void **)&driver.copy, (void **)&driver.text, (void **)&driver.device, (void **)&driver.attribute};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*places[i] = dlsym(handle, names[i]))) return invalid("CUDA driver: it has no %s", names[i]);
    return NULL;
}

static OrtStatus *load(gpu *g, int device) {
    char name[32];
    try(check("multiprocessors", driver.attribute(&g->multiprocessors, 16, device)));
    if (!image) return invalid("the kernels for GPUs are not handed over");
    try(check("load the kernels", driver.load(&g->module, image)));
    for (int l = 0; l < 2; l++)
        for (int h = 0; h < SHARES; h++) {
            snprintf(name, sizeof name, "decode_%d_%d", 8 << l, 1 << h);
            try(check(name, driver.find(&g->decode[l][h], g->module, name)));
        }
    try(check("gate", driver.find(&g->gate, g->module, "gate")));
    try(check("best", driver.find(&g->best, g->module, "best")));
    return check("merge", driver.find(&g->merge, g->module, "merge"));
}

OrtStatus *gpu_current(gpu **g) {
    int device = 0;
    pthread_mutex_lock(&mutex);
    OrtStatus *error = open_driver();
    if (!error) error = check("device", driver.device(&device));
    if (!error && (device < 0 || device >= MOST_DEVICES)) error = invalid("CUDA driver: device %d", device);
    if (!error && !gpus[device].merge) error = load(&gpus[device], device);
    pthread_mutex_unlock(&mutex);
    *g = &gpus[device];
    return error;
}

OrtStatus *gpu_launch(const char *name, void *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, void *stream, void *parameter) {
    void *parameters[] = {parameter};
    return check(name, driver.launch(kernel, x, y, z, threads, 1, 1, 0, stream, parameters, NULL));
}

OrtStatus *gpu_copy(void *to, const void *from, size_t bytes, void *stream) { return check("copy", driver.copy(to, from, bytes, stream)); }
