// Runs the kernels of gpu.cu on the host, a thread for each of a block's, and compares them with the plain
// definition of attention. Prints what differs, and a line for each case. Run by TestDecodeEmulated.
//
//   c++ -std=c++20 -I.. emulate.cpp -pthread

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#define EMULATED
#define __device__ static
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static // blocks run one after the other
typedef unsigned long long size;
typedef unsigned short number; // of half precision
using std::max, std::min;

struct place3 {
    int x, y, z;
};
static thread_local place3 threadIdx;
static place3 blockIdx;
static std::barrier<> *block;
static std::vector<std::barrier<> *> warps;
static unsigned exchanged[1024];

static void __syncthreads() { block->arrive_and_wait(); }

template <typename T>
static T __shfl_xor_sync(unsigned, T v, int with) {
    const int t = threadIdx.x;
    memcpy(&exchanged[t], &v, sizeof v);
    warps[t / 32]->arrive_and_wait();
    memcpy(&v, &exchanged[t ^ with], sizeof v);
    warps[t / 32]->arrive_and_wait();
    return v;
}

static float single(number h) {
    _Float16 f;
    memcpy(&f, &h, sizeof f);
    return f;
}

static number half(float v) {
    const _Float16 f = v;
    number h;
    memcpy(&h, &f, sizeof h);
    return h;
}

static float low(unsigned pair) { return single(pair & 0xffff); }
static float high(unsigned pair) { return single(pair >> 16); }
static float power(float f) { return exp2f(f); }

#include "gpu.cu"

template <typename T>
static void run(void (*kernel)(T), T c, place3 grid, int count = 128) {
    std::barrier<> all(count);
    block = &all, warps.clear();
    for (int i = 0; i < count; i += 32) warps.push_back(new std::barrier<>(32));
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                std::vector<std::thread> threads;
                for (int i = 0; i < count; i++) threads.emplace_back([=] { threadIdx = {i, 0, 0}, kernel(c); });
                for (auto &t : threads) t.join();
            }
}

struct test {
    int heads, kv_heads, dim, bits, splits;
    void (*kernel)(call);
    int together; // query heads of a block
};

static std::mt19937 random_numbers(1);

static std::vector<number> numbers(size_t n) {
    std::normal_distribution<float> normal;
    std::vector<number> v(n);
    for (auto &x : v) x = half(normal(random_numbers));
    return v;
}

static void check(const test &t) {
    const int rows = 2, width = 3, page = 1 << t.bits, pages = rows * width + 1, positions = width * page, w = (t.heads + 2 * t.kv_heads) * t.dim;
    const int held[rows] = {0, positions - 3}, share = t.heads / t.kv_heads, middle = t.dim / 2;
    std::vector<int> table(rows * width);
    for (int i = 0; i < rows * width; i++) table[i] = (i * 5 + 2) % (rows * width);
    auto qkv = numbers(rows * w), keys = numbers((size_t)pages * page * t.kv_heads * t.dim), values = numbers(keys.size());
    std::vector<number> cosines(positions * middle), sines(cosines.size()), out(rows * t.heads * t.dim, 0x7e00);
    for (int p = 0; p < positions; p++)
        for (int i = 0; i < middle; i++) {
            const float angle = p * powf(100, -2.f * i / t.dim);
            cosines[p * middle + i] = half(cosf(angle)), sines[p * middle + i] = half(sinf(angle));
        }
    std::vector<float> parts(rows * t.heads * t.splits * (t.dim + 2), NAN);
    const auto old_keys = keys, old_values = values;
    call c{qkv.data(), cosines.data(), sines.data(), keys.data(), values.data(), out.data(), parts.data(), held, table.data(),
           t.heads, t.kv_heads, t.dim, t.bits, width, t.splits, pages, 1.44269504f / sqrtf(t.dim)};
    run(t.kernel, c, {rows, t.kv_heads * ((share + t.together - 1) / t.together), t.splits});
    if (t.splits > 1) run(merge, c, {rows * t.heads, 1, 1});

    double worst = 0;
    size_t wrong = 0, written = 0;
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < t.heads; h++) {
            const number *in = &qkv[r * w];
            const int group = h / share, n = held[r] + 1;
            auto turned = [&](const number *x, int d) {
                const double s = single(sines[held[r] * middle + d % middle]), k = single(cosines[held[r] * middle + d % middle]);
                return half(d < middle ? single(x[d]) * k - single(x[d + middle]) * s : single(x[d]) * k + single(x[d - middle]) * s);
            };
            auto at = [&](int p) { return ((size_t)table[r * width + p / page] * page + p % page) * t.kv_heads * t.dim + group * t.dim; };
            std::vector<double> scores(n);
            for (int p = 0; p < n; p++) {
                for (int d = 0; d < t.dim; d++)
                    scores[p] += (double)single(turned(in + h * t.dim, d)) * single(p < held[r] ? old_keys[at(p) + d] : turned(in + (t.heads + group) * t.dim, d));
                scores[p] /= sqrt(t.dim);
            }
            for (int d = 0; d < t.dim; d++) {
                const number value = in[(t.heads + t.kv_heads + group) * t.dim + d];
                double sum = 0, weight = 0;
                for (int p = 0; p < n; p++) {
                    const double e = exp(scores[p]);
                    weight += e, sum += e * single(p < held[r] ? old_values[at(p) + d] : value);
                }
                const double got = single(out[(r * t.heads + h) * t.dim + d]);
                worst = max(worst, got == got ? std::abs(sum / weight - got) : 1e9);
                wrong += std::abs(single(keys[at(held[r]) + d]) - single(turned(in + (t.heads + group) * t.dim, d))) > 2e-3 || values[at(held[r]) + d] != value;
            }
        }
    for (size_t i = 0; i < keys.size(); i++) written += keys[i] != old_keys[i];
    printf("%d heads over %d of %d numbers, %d splits: off by %g at most, %zu of the appended numbers are wrong\n", t.heads, t.kv_heads, t.dim, t.splits, worst, wrong);
    if (worst > 2e-3 || wrong || written > (size_t)rows * t.kv_heads * t.dim) printf("FAIL: %zu numbers of the keys written\n", written);
}

static void check_gate(int rows, int width) {
    const auto in = numbers(rows * 2 * width);
    std::vector<number> out(rows * width, 0x7e00);
    run(gate, gating{(const unsigned *)in.data(), (unsigned *)out.data(), width / 2}, {rows, (width / 2 + 127) / 128, 1});
    double worst = 0;
    for (int i = 0; i < rows * width; i++) {
        const double g = single(in[i / width * 2 * width + i % width]), u = single(in[i / width * 2 * width + width + i % width]), got = single(out[i]);
        worst = max(worst, got == got ? std::abs(g / (1 + exp(-g)) * u - got) : 1e9);
    }
    printf("gate of %d x %d: off by %g at most\n", rows, width, worst);
    if (worst > 4e-3) printf("FAIL\n");
}

static void check_best(int width, std::vector<int> tops) {
    const int rows = tops.size();
    auto in = numbers(rows * width);
    for (int r = 0; r < rows; r++) in[r * width + tops[r]] = half(9);
    in[tops[0] + 1] = half(9); // an equal one behind
    std::vector<long long> out(rows, -1);
    run(best, choice{in.data(), out.data(), width}, {rows, 1, 1}, 1024);
    for (int r = 0; r < rows; r++)
        if (out[r] != tops[r]) printf("FAIL: the best of row %d is %lld, want %d\n", r, out[r], tops[r]);
    printf("best of %d x %d compared\n", rows, width);
}

int main() {
    check_gate(3, 96), check_gate(2, 1100);
    check_best(2500, {1023, 2499}), check_best(3, {1});
    for (const auto &t : {test{9, 3, 64, 4, 1, decode_8_4, 4}, test{4, 2, 128, 4, 3, decode_16_2, 2}, test{7, 1, 32, 5, 2, decode_8_8, 8}, test{10, 1, 80, 4, 1, decode_16_8, 8}, test{2, 2, 64, 5, 2, decode_8_1, 1}}) check(t);
}
