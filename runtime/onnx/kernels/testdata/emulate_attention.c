// Runs the kernels of attention_amx.c on any processor, and compares the bits of prompts and of decoding tokens with the
// definition. Prints what differs. Run by TestAMXEmulated.
//
//   cc -std=c11 -I.. emulate_attention.c ../attention_bfloats.c -lm

#include "emulate.h"

#include "attention_amx.c"

#include <stdio.h>

static float random_number(void) { return 4 * ((float)rand() / RAND_MAX - .5f); }

// compare feeds a sequence to both kernels, a prompt of some tokens and then one by one, and counts differing numbers.
static int compare(size_t heads, size_t kv_heads, size_t dim, size_t prompt, size_t tokens) {
    const size_t width = (heads + 2 * kv_heads) * dim, capacity = (tokens + PANEL - 1) / PANEL * PANEL, cached = kv_heads * capacity * dim;
    float *qkv = malloc(tokens * width * sizeof *qkv), *turns = malloc(tokens * dim * sizeof *turns);
    int32_t *places = calloc(2 * tokens, sizeof *places);
    for (size_t i = 0; i < tokens * width; i++) qkv[i] = random_number();
    for (size_t i = 0; i < tokens * dim; i++) turns[i] = random_number() / 2;
    for (size_t t = 0; t < tokens; t++) places[2 * t + 1] = t;
    const attention_kernels *kernels[] = {&attention_amx, &attention_bfloats};
    float *out[2];
    for (int k = 0; k < 2; k++) {
        char *cache = malloc(4 * cached);
        memset(cache, 0xff, 4 * cached); // no numbers
        out[k] = malloc(tokens * heads * dim * sizeof **out);
        attention a = {.heads = heads, .kv_heads = kv_heads, .dim = dim, .slots = 1, .capacity = capacity, .positions = tokens, .half = 1, .scale = .3f,
                       .cos = turns, .sin = turns + tokens * dim / 2, .keys = cache, .values = cache + 2 * cached, .qkv = qkv, .places = places, .out = out[k], .tokens = tokens};
        const size_t group = heads / kv_heads, most = group < kernels[k]->rows ? kernels[k]->rows / group : 1;
        for (size_t h = 0; h < kv_heads; h++)
            for (size_t t = 0, n; t < tokens; t += n) {
                n = t >= prompt ? 1 : prompt - t < most ? prompt - t : most;
                for (size_t i = 0; i < n; i++) kernels[k]->append(&a, t + i, h);
                kernels[k]->attend(&a, (tile){t, n}, h);
            }
        free(cache);
    }
    int differ = 0;
    for (size_t i = 0; i < tokens * heads * dim; i++) differ += memcmp(out[0] + i, out[1] + i, sizeof **out) || out[0][i] != out[0][i];
    free(qkv), free(turns), free(places), free(out[0]), free(out[1]);
    return differ;
}

int main(void) {
    static const size_t shapes[][5] = {{9, 3, 64, 140, 150}, {4, 4, 32, 300, 301}, {14, 2, 64, 20, 70}, {50, 1, 96, 33, 40}, {1, 1, 32, 1, 140}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t *s = shapes[i];
        const int differ = compare(s[0], s[1], s[2], s[3], s[4]);
        printf("attention of %zu heads over %zu of %zu numbers: %s\n", s[0], s[1], s[2], differ ? "FAIL" : "same");
    }
    return 0;
}
