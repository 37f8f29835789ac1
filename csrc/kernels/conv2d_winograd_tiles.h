/* The fast form of conv2d_winograd.h: a block of squares is transformed into 16 matrices (squares x source channels), each of them is multiplied by its matrix of
 * the transformed weight on the register tile of the matrix product, and the results are turned back. The block stays in the second-level cache.
 */
#ifndef SS_KERNELS_CONV2D_WINOGRAD_TILES_H
#define SS_KERNELS_CONV2D_WINOGRAD_TILES_H
#include "base/shape.h"
#include "kernels/conv2d_winograd.h"
#include "kernels/matmul_tile.h"

enum { SQUARE_PLACES = 16, SQUARE_FLOATS = 96 * 1024, SQUARE_LEAST = 2 * TILE_M, SQUARE_MOST = 4 * TILE_M };

/* Offsets in floats; planes of the two transformed blocks are an odd number of cache lines apart, so that the 16 places of a square do not meet in one set of a cache. */
typedef struct square_layout {
    conv_square pass;
    int64_t squares, source_row, source_plane, dest_row, dest_plane, panels, at_packed, at_buffer, buffer, end;
} square_layout;

static square_layout square_layout_of(conv_square pass, int64_t at, int threads) {
    square_layout l = {.pass = pass, .source_row = ss_round_up(pass.source_c, 16), .dest_row = ss_round_up(pass.dest_c, 16), .panels = (pass.dest_c + TILE_N - 1) / TILE_N};
    if (l.source_row % 256 == 0) l.source_row += 16;
    l.squares = SQUARE_FLOATS / SQUARE_PLACES / (l.source_row + l.dest_row) / TILE_M * TILE_M;
    l.squares = ss_max(SQUARE_LEAST, ss_min(l.squares, SQUARE_MOST));
    l.source_plane = ss_round_up(l.squares * l.source_row, 32) + 16;
    l.dest_plane = ss_round_up(l.squares * l.dest_row, 32) + 16;
    l.at_packed = at;
    l.at_buffer = ss_round_up(at + SQUARE_PLACES * l.panels * TILE_N * pass.source_c, 16);
    l.buffer = ss_round_up(SQUARE_PLACES * (l.source_plane + l.dest_plane), 16);
    l.end = l.at_buffer + l.buffer * threads;
    return l;
}

/* The transformed weight: for each place panels of TILE_N destination channels, source_c x TILE_N each. */
static void square_pack(const square_layout *l, const float *weight, float *scratch, int thread, int threads) {
    const conv_square *s = &l->pass;
    int64_t begin, end, vectors = (s->dest_c + VEC_WIDTH - 1) / VEC_WIDTH, plane = l->panels * TILE_N * s->source_c;
    const vec half_ = vec_set(0.5f);
    ss_split(vectors * s->source_c, 1, thread, threads, &begin, &end);
    for (int64_t k = begin; k < end; k++) {
        int64_t o = k / s->source_c * VEC_WIDTH, c = k % s->source_c, count = ss_min(VEC_WIDTH, s->dest_c - o);
        float taps[9][VEC_WIDTH] = {{0}};
        for (int64_t i = 0; i < count; i++) {
            const float *from = weight + (o + i) * s->weight_dest + c * s->weight_source;
            for (int t = 0; t < 9; t++) taps[s->turned ? 8 - t : t][i] = from[t];
        }
        vec g[3][3], u[4][4];
        for (int t = 0; t < 9; t++) g[t / 3][t % 3] = vec_load(taps[t]);
        WINOGRAD_WEIGHT(vec, g, u);
        float *to = scratch + l->at_packed + o / TILE_N * TILE_N * s->source_c + c * TILE_N + o % TILE_N;
        for (int t = 0; t < SQUARE_PLACES; t++) vec_store(to + t * plane, u[t / 4][t % 4]);
    }
}

/* One square of the source from (h, w) on. inside: all of it lies in the image. */
SS_INLINE void square_load(const square_layout *l, const float *image, int64_t h, int64_t w, const bool inside, float *to) {
    const conv_square *s = &l->pass;
    int64_t row = s->source_w * s->source_c;
    for (int64_t c = 0; c < s->source_c; c += VEC_WIDTH) {
        vec_mask mask = vec_first(s->source_c - c);
        bool whole = s->source_c - c >= VEC_WIDTH;
        vec d[4][4], v[4][4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const float *line = image + (h + i) * row + w * s->source_c + c;
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                bool there = inside || (h + i >= 0 && h + i < s->source_h && w + j >= 0 && w + j < s->source_w);
                d[i][j] = !there ? vec_zero() : whole ? vec_load(line + j * s->source_c) : vec_load_mask(line + j * s->source_c, mask);
            }
        }
        WINOGRAD_SOURCE(vec, d, v);
#pragma GCC unroll 16
        for (int t = 0; t < SQUARE_PLACES; t++) vec_store(to + t * l->source_plane + c, v[t / 4][t % 4]);
    }
}

/* One square of results; rows and columns: how much of it lies in the image. */
SS_INLINE void square_store(const square_layout *l, const float *from, const float *bias, float *to, const int rows, const int columns) {
    const conv_square *s = &l->pass;
    for (int64_t c = 0; c < s->dest_c; c += VEC_WIDTH) {
        vec_mask mask = vec_first(s->dest_c - c);
        bool whole = s->dest_c - c >= VEC_WIDTH;
        vec m[4][4], y[2][2];
#pragma GCC unroll 16
        for (int t = 0; t < SQUARE_PLACES; t++) m[t / 4][t % 4] = vec_load(from + t * l->dest_plane + c);
        WINOGRAD_RESULT(vec, m, y);
        vec z = bias ? vec_load_mask(bias + c, mask) : vec_zero();
#pragma GCC unroll 2
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j < columns; j++) {
                float *at = to + (i * s->dest_w + j) * s->dest_c + c;
                vec value = bias ? vec_add(y[i][j], z) : y[i][j];
                if (whole) vec_store(at, value);
                else vec_store_mask(at, value, mask);
            }
    }
}

/* Squares of all samples are dealt to threads in contiguous runs. */
static void square_run(const square_layout *l, int64_t samples, const float *source, float *dest, const float *bias, float *scratch, int thread, int threads) {
    const conv_square *s = &l->pass;
    int64_t across = (s->dest_w + 1) / 2, down = (s->dest_h + 1) / 2, begin, end, plane = l->panels * TILE_N * s->source_c;
    const float *packed = scratch + l->at_packed;
    float *v = scratch + l->at_buffer + l->buffer * thread, *m = v + SQUARE_PLACES * l->source_plane;
    ss_split(samples * across * down, 1, thread, threads, &begin, &end);
    for (int64_t first = begin; first < end; first += l->squares) {
        int64_t count = ss_min(l->squares, end - first), strips = tile_strips(count);
        int64_t n = first / (across * down), i = first / across % down, j = first % across;
        for (int64_t k = 0; k < count; k++) {
            int64_t h = 2 * i - s->pad_h, w = 2 * j - s->pad_w;
            const float *image = source + n * s->source_h * s->source_w * s->source_c;
            float *to = v + k * l->source_row;
            if (h >= 0 && h + 4 <= s->source_h && w >= 0 && w + 4 <= s->source_w) square_load(l, image, h, w, true, to);
            else square_load(l, image, h, w, false, to);
            if (++j == across && (j = 0, ++i == down)) i = 0, n++;
        }
        for (int t = 0; t < SQUARE_PLACES; t++)
            for (int64_t o = 0; o < s->dest_c; o += TILE_N)
                for (int64_t strip = 0; strip < strips; strip++) {
                    int64_t k = tile_begin(count, strips, strip), rows = tile_begin(count, strips, strip + 1) - k;
                    tile_strip((int)rows, ss_min(TILE_N, l->dest_row - o), s->source_c, v + t * l->source_plane + k * l->source_row, l->source_row, 1,
                               packed + t * plane + o * s->source_c, TILE_N, m + t * l->dest_plane + k * l->dest_row + o, l->dest_row, false, NULL, packed, 0);
                }
        n = first / (across * down), i = first / across % down, j = first % across;
        for (int64_t k = 0; k < count; k++) {
            const float *from = m + k * l->dest_row;
            float *to = dest + ((n * s->dest_h + 2 * i) * s->dest_w + 2 * j) * s->dest_c;
            int rows = 2 * i + 2 <= s->dest_h ? 2 : 1, columns = 2 * j + 2 <= s->dest_w ? 2 : 1;
            if (rows == 2 && columns == 2) square_store(l, from, bias, to, 2, 2);
            else if (rows == 2) square_store(l, from, bias, to, 2, 1);
            else if (columns == 2) square_store(l, from, bias, to, 1, 2);
            else square_store(l, from, bias, to, 1, 1);
            if (++j == across && (j = 0, ++i == down)) i = 0, n++;
        }
    }
}

#endif
