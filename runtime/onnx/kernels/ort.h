// The part of ONNX Runtime's C API (onnxruntime_c_api.h, MIT license) that operators of our own and memory of devices need. The
// library hands out one table of functions, which only ever grows at its end: a call is its place in the
// table. TestPlaces compares places and struct with the binding's copy of the whole header.
#ifndef PELTON_ORT_H
#define PELTON_ORT_H

#include <stddef.h>
#include <stdint.h>

#define ORT_VERSION 24 // of the API: what OrtGetApiBase()->GetApi is asked for

typedef struct OrtStatus OrtStatus;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtValue OrtValue;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtSession OrtSession;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtRunOptions OrtRunOptions;

typedef struct {
    void *call[512];
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

// Name, place in the table, parameters. All return a status, NULL for success, but the releases.
#define ORT_CALLS(X)                                                                                            \
    X(OrtStatus *, CreateStatus, 0, (int code, const char *message))                                            \
    X(const char *, GetErrorMessage, 2, (const OrtStatus *))                                                    \
    X(OrtStatus *, CreateCustomOpDomain, 26, (const char *name, OrtCustomOpDomain **))                          \
    X(OrtStatus *, CustomOpDomain_Add, 27, (OrtCustomOpDomain *, const OrtCustomOp *))                          \
    X(OrtStatus *, AddCustomOpDomain, 28, (OrtSessionOptions *, OrtCustomOpDomain *))                           \
    X(OrtStatus *, CreateTensorAsOrtValue, 48, (OrtAllocator *, const int64_t *, size_t, int type, OrtValue **)) \
    X(OrtStatus *, CreateTensorWithDataAsOrtValue, 49,                                                          \
      (const OrtMemoryInfo *, void *data, size_t bytes, const int64_t *, size_t, int type, OrtValue **))         \
    X(OrtStatus *, GetTensorMutableData, 51, (OrtValue *, void **))                                             \
    X(OrtStatus *, GetDimensionsCount, 61, (const OrtTensorTypeAndShapeInfo *, size_t *))                       \
    X(OrtStatus *, GetDimensions, 62, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t))                   \
    X(OrtStatus *, GetTensorTypeAndShape, 65, (const OrtValue *, OrtTensorTypeAndShapeInfo **))                 \
    X(OrtStatus *, CreateMemoryInfo, 68, (const char *name, int type, int id, int memory, OrtMemoryInfo **))    \
    X(OrtStatus *, KernelInfoGetAttribute_float, 85, (const OrtKernelInfo *, const char *, float *))            \
    X(OrtStatus *, KernelInfoGetAttribute_int64, 86, (const OrtKernelInfo *, const char *, int64_t *))          \
    X(OrtStatus *, KernelContext_GetInput, 90, (const OrtKernelContext *, size_t, const OrtValue **))           \
    X(OrtStatus *, KernelContext_GetOutput, 91, (OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)) \
    X(void, ReleaseStatus, 93, (OrtStatus *))                                                                   \
    X(void, ReleaseMemoryInfo, 94, (OrtMemoryInfo *))                                                           \
    X(void, ReleaseValue, 96, (OrtValue *))                                                                     \
    X(void, ReleaseTensorTypeAndShapeInfo, 99, (OrtTensorTypeAndShapeInfo *))                                   \
    X(OrtStatus *, CreateAllocator, 131, (const OrtSession *, const OrtMemoryInfo *, OrtAllocator **))          \
    X(void, ReleaseAllocator, 132, (OrtAllocator *))                                                            \
    X(OrtStatus *, AddRunConfigEntry, 165, (OrtRunOptions *, const char *key, const char *value))                \
    X(OrtStatus *, KernelContext_GetGPUComputeStream, 193, (const OrtKernelContext *, void **))                 \
    X(OrtStatus *, KernelContext_ParallelFor, 274,                                                              \
      (const OrtKernelContext *, void (*)(void *, size_t), size_t total, size_t batches, void *))

enum {
#define X(result, name, place, parameters) ORT_##name = place,
    ORT_CALLS(X)
#undef X
};

#define X(result, name, place, parameters) typedef result(*ort_##name) parameters;
ORT_CALLS(X)
#undef X

// ort calls a function of the table: ort(ReleaseStatus)(status).
extern const OrtApi *ort_api;
#define ort(name) ((ort_##name)ort_api->call[ORT_##name])

enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT32 = 6, ORT_INT64 = 7, ORT_HALF = 10 }; // ONNXTensorElementDataType
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };                         // OrtCustomOpInputOutputCharacteristic
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };                     // OrtErrorCode

struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, void *);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
    size_t (*GetMayInplace)(int **, int **);
    void (*ReleaseMayInplace)(int *, int *);
    size_t (*GetAliasMap)(int **, int **);
    void (*ReleaseAliasMap)(int *, int *);
};

#endif
