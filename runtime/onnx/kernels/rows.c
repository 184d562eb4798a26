//go:build cgo && (linux || darwin)

#include "blocks.h"

// BlockRows: out = rows of W, as an embedding.
//   ids [...] int64, weights as those of BlockProduct; out [..., columns] float.

static OrtStatus *compute(void *kernel, OrtKernelContext *c) {
    const form *f = kernel;
    tensor ids, weights, out;
    try(input(c, 0, &ids));
    try(input(c, 1, &weights));
    try(check_weights(f, &weights));
    if (ids.rank >= MAX_RANK) return invalid("ids of rank %zu", ids.rank);
    out = ids;
    out.dims[out.rank++] = f->columns;
    try(output(c, 0, &out));
    size_t bytes = blocks_of(f) * block_bytes(f), n = elements(&ids);
    for (size_t i = 0; i < n; i++) {
        int64_t id = ((int64_t *)ids.data)[i];
        if (id < 0 || id >= f->rows) return invalid("row %lld of %lld", (long long)id, (long long)f->rows);
        unpack_row(f, (uint8_t *)weights.data + id / GROUP * bytes, id % GROUP, (float *)out.data + i * f->columns);
    }
    return NULL;
}

operator block_rows = {.name = "BlockRows", .inputs = "lb", .outputs = "f", .create = create_form, .compute = compute};
