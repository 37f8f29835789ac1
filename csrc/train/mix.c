#include "train/mix.h"
#include <math.h>
#include <string.h>
#include "base/philox.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"

enum { TRIES = 4096 };

static ss_random4 draw(const ss_mix *m, int64_t index, uint32_t number) {
    return ss_philox(m->seed, number, (uint32_t)index, m->epoch ^ (uint32_t)((uint64_t)index >> 32) << 20, SS_STREAM_MIX);
}

/* (0, 1): never 0, so that its logarithm is finite. */
static float open_uniform(uint32_t word) { return ((float)(word >> 9) + 0.5f) * 0x1p-23f; }

/* alpha <= 1: Joehnk, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", 1964, in logarithms. alpha > 1: a uniform draw is kept with probability (4 u (1 - u))^(alpha - 1). */
float ss_mix_weight(const ss_mix *m, int64_t index) {
    const float a = (float)m->alpha;
    for (uint32_t number = 0; number < TRIES; number++) {
        ss_random4 r = draw(m, index, number + 1);
        float u = open_uniform(r.word[0]), v = open_uniform(r.word[1]);
        if (a > 1) {
            if (log_r(v) <= (a - 1) * log_r(4 * u * (1 - u))) return u;
            continue;
        }
        float x = log_r(u) / a, y = log_r(v) / a, top = x > y ? x : y;
        if (top + log_r(exp_r(x - top) + exp_r(y - top)) > 0) continue; /* the sum of both is above 1 */
        return exp_r(x - top) / (exp_r(x - top) + exp_r(y - top));
    }
    return 0.5f;
}

void ss_mix_box(const ss_mix *m, int64_t index, float *weight, int64_t *top, int64_t *bottom, int64_t *left, int64_t *right) {
    ss_random4 r = draw(m, index, 0);
    float side = sqrtf(1 - *weight);
    int64_t high = (int64_t)((float)m->height * side), wide = (int64_t)((float)m->width * side);
    int64_t y = (int64_t)(ss_uniform(r.word[0]) * (float)m->height), x = (int64_t)(ss_uniform(r.word[1]) * (float)m->width);
    *top = ss_max(y - high / 2, 0);
    *bottom = ss_min(y - high / 2 + high, m->height);
    *left = ss_max(x - wide / 2, 0);
    *right = ss_min(x - wide / 2 + wide, m->width);
    *weight = 1 - (float)((*bottom - *top) * (*right - *left)) / (float)(m->height * m->width);
}

int64_t ss_mix_shift(const ss_mix *m, int64_t step, int64_t size) {
    if (size < 2) return 0;
    ss_random4 r = ss_philox(m->seed, UINT32_MAX, (uint32_t)step, m->epoch, SS_STREAM_MIX);
    return 1 + (int64_t)(r.word[0] % (uint64_t)(size - 1));
}

static ss_status one_row(const ss_mix *m, const ss_feed *feed, int k, int64_t place, int64_t channels, float *out, ss_error *err) {
    const ss_array *a = &feed->array[k];
    const int64_t *index = feed->order ? feed->order + place : NULL;
    if (m->role[k] != SS_MIX_ONE_HOT) return ss_gather(a, index, place, 1, SS_F32, channels, out, err);
    int32_t label;
    ss_status status = ss_gather(a, index, place, 1, SS_I32, 1, &label, err);
    if (status != SS_OK) return status;
    if (label < 0 || label >= m->classes[k])
        return SS_FAIL(err, SS_ERR_VALUE, "%s: the label in row %lld is %d; with %lld classes labels are 0 to %lld", a->name, (long long)(index ? *index : place), label,
                       (long long)m->classes[k], (long long)m->classes[k] - 1);
    memset(out, 0, (size_t)m->classes[k] * sizeof *out);
    out[label] = 1;
    return SS_OK;
}

ss_status ss_mix_gather(const ss_mix *m, const ss_feed *feed, int k, int64_t step, int64_t first, int64_t size, int64_t begin, int64_t end, int64_t channels, float *out, ss_error *err) {
    const int64_t count = m->role[k] == SS_MIX_ONE_HOT ? m->classes[k] : feed->array[k].count, shift = ss_mix_shift(m, step, size);
    for (int64_t p = begin; p < end; p++, out += count) {
        ss_status status = one_row(m, feed, k, first + p, channels, out, err);
        if (status == SS_OK) status = one_row(m, feed, k, first + (p + shift) % size, channels, m->row, err);
        if (status != SS_OK) return status;
        int64_t index = feed->order ? feed->order[first + p] : first + p, top, bottom, left, right;
        float weight = ss_mix_weight(m, index);
        if (m->kind == SS_MIX_CUT) ss_mix_box(m, index, &weight, &top, &bottom, &left, &right);
        if (m->kind == SS_MIX_CUT && m->role[k] == SS_MIX_INPUT) {
            /* Channels last where channels > 1, else planes one after another. */
            int64_t planes = channels > 1 ? 1 : count / (m->height * m->width), line = channels > 1 ? channels : 1;
            for (int64_t c = 0; c < planes; c++)
                for (int64_t y = top; y < bottom; y++) {
                    int64_t at = ((c * m->height + y) * m->width + left) * line;
                    if (right > left) memcpy(out + at, m->row + at, (size_t)((right - left) * line) * sizeof *out);
                }
            continue;
        }
        for (int64_t e = 0; e < count; e++) out[e] = fma_r(weight, out[e] - m->row[e], m->row[e]);
    }
    return SS_OK;
}
