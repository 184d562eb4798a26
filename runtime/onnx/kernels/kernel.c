//go:build cgo && (linux || darwin)

#include "kernel.h"
#include "register.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const OrtApi *ort_api;
enum level level;

static operator *const operators[] = {&attention_operator, &block_product, &block_rows, &decode_attention, &gate_operator, &best_operator};

static const operator *of(const OrtCustomOp *op) { return (const operator *)op; }

static const char *name(const OrtCustomOp *op) { return of(op)->name; }
static const char *provider(const OrtCustomOp *op) { return of(op)->provider; }

static int type(char letter) {
    switch (letter | 0x20) {
    case 'f': return ORT_FLOAT;
    case 'h': return ORT_HALF;
    case 'b': return ORT_UINT8;
    case 'i': return ORT_INT32;
    default: return ORT_INT64;
    }
}

static int optional(char letter) { return letter & 0x20 ? ORT_REQUIRED : ORT_OPTIONAL; }

static size_t input_count(const OrtCustomOp *op) { return strlen(of(op)->inputs); }
static size_t output_count(const OrtCustomOp *op) { return strlen(of(op)->outputs); }
static int input_type(const OrtCustomOp *op, size_t i) { return type(of(op)->inputs[i]); }
static int output_type(const OrtCustomOp *op, size_t i) { return type(of(op)->outputs[i]); }
static int input_need(const OrtCustomOp *op, size_t i) { return optional(of(op)->inputs[i]); }
static int output_need(const OrtCustomOp *op, size_t i) { return optional(of(op)->outputs[i]); }
static int zero(const OrtCustomOp *op) { return 0; }
static int input_memory(const OrtCustomOp *op, size_t i) { return 0; } // the provider's own
static int first_version(const OrtCustomOp *op) { return 1; }

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **kernel) {
    return of(op)->create(info, kernel);
}

static const OrtCustomOp *define(operator *o) {
    o->base = (OrtCustomOp){
        .version = ORT_VERSION, .GetName = name, .GetExecutionProviderType = provider,
        .GetInputType = input_type, .GetInputTypeCount = input_count, .GetInputCharacteristic = input_need,
        .GetOutputType = output_type, .GetOutputTypeCount = output_count, .GetOutputCharacteristic = output_need,
        .GetInputMemoryType = input_memory,
        .GetVariadicInputMinArity = zero, .GetVariadicInputHomogeneity = zero,
        .GetVariadicOutputMinArity = zero, .GetVariadicOutputHomogeneity = zero,
        .CreateKernelV2 = create, .KernelComputeV2 = o->compute, .KernelDestroy = free,
        .GetStartVersion = first_version, .GetEndVersion = first_version,
    };
    return &o->base;
}

char *take(OrtStatus *s) {
    if (!s) return NULL;
    char *text = strdup(ort(GetErrorMessage)(s));
    ort(ReleaseStatus)(s);
    return text;
}

char *pelton_load(const char *library) {
    void *handle = dlopen(library, RTLD_LAZY);
    if (!handle) return strdup(dlerror());
    OrtApiBase *(*base)(void) = (OrtApiBase * (*)(void)) dlsym(handle, "OrtGetApiBase");
    if (!base) return strdup("it has no OrtGetApiBase");
    ort_api = base()->GetApi(ORT_VERSION);
    return ort_api ? NULL : strdup("its API is older than version 24");
}

char *pelton_add(void *options) {
    static OrtCustomOpDomain *domain; // lives as long as the process, as the library does
    if (!domain) {
        OrtCustomOpDomain *d;
        char *error = take(ort(CreateCustomOpDomain)("pelton", &d));
        if (error) return error;
        for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
            error = take(ort(CustomOpDomain_Add)(d, define(operators[i])));
            if (error) return error;
        }
        domain = d;
    }
    return take(ort(AddCustomOpDomain)(options, domain));
}

void pelton_level(int l) { level = l; }

static OrtStatus *shape(const OrtValue *v, tensor *t) {
    OrtTensorTypeAndShapeInfo *info;
    try(ort(GetTensorTypeAndShape)(v, &info));
    OrtStatus *error = ort(GetDimensionsCount)(info, &t->rank);
    if (!error && t->rank > MAX_RANK) error = invalid("a tensor of rank %zu, at most %d", t->rank, MAX_RANK);
    if (!error) error = ort(GetDimensions)(info, t->dims, t->rank);
    ort(ReleaseTensorTypeAndShapeInfo)(info);
    return error;
}

OrtStatus *input(const OrtKernelContext *c, size_t index, tensor *t) {
    const OrtValue *v;
    *t = (tensor){0};
    try(ort(KernelContext_GetInput)(c, index, &v));
    if (!v) return NULL;
    try(shape(v, t));
    return ort(GetTensorMutableData)((OrtValue *)v, &t->data);
}

OrtStatus *output(OrtKernelContext *c, size_t index, tensor *t) {
    OrtValue *v;
    try(ort(KernelContext_GetOutput)(c, index, t->dims, t->rank, &v));
    return ort(GetTensorMutableData)(v, &t->data);
}

OrtStatus *int_attribute(const OrtKernelInfo *info, const char *name, int64_t low, int64_t high, int64_t *value) {
    try(ort(KernelInfoGetAttribute_int64)(info, name, value));
    if (*value < low || *value > high)
        return invalid("attribute %s is %lld, wanted %lld to %lld", name, (long long)*value, (long long)low, (long long)high);
    return NULL;
}

OrtStatus *flag_attribute(const OrtKernelInfo *info, const char *name, int64_t *value) {
    OrtStatus *none = ort(KernelInfoGetAttribute_int64)(info, name, value);
    if (!none) return int_attribute(info, name, 0, 1, value);
    ort(ReleaseStatus)(none);
    *value = 0;
    return NULL;
}

OrtStatus *invalid(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return ort(CreateStatus)(ORT_INVALID_ARGUMENT, text);
}

OrtStatus *parallel(const OrtKernelContext *c, void (*task)(void *, size_t), size_t n, void *data) {
    if (n == 1) {
        task(data, 0);
        return NULL;
    }
    return ort(KernelContext_ParallelFor)(c, task, n, 0, data);
}
