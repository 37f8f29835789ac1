/* Convolution by OpenBLAS: im2col and one sgemm per lane and group, never merged or cut, because sgemm's bits depend on the row count and the row's position.
 *
 *   forward   col (M, K) * W (K, O)            M = samples of the lane * output positions, K = (kd, kh, kw, c) of a group
 *   grad x    gy (M, O) * W^T -> col (M, K), then col2im in row-major order of positions
 *   grad w    col^T (K, M) * gy (M, O), lanes folded
 *
 * Scratch: packed W | columns of every lane (M_total, K) | backward: columns for the weight's gradient, one set per busy thread | stack of partials.
 */
#include <string.h>

#include "base/shape.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/conv2d_blas.h"

typedef struct layout {
    int64_t group_in, group_out, taps, k, positions, columns, weights; /* columns: floats of every lane's im2col */
    int64_t at_columns, at_second, at_stack, end;
} layout;

static layout layout_of(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads) {
    layout l = {.group_in = p->channels / p->groups, .group_out = p->out_channels / p->groups};
    l.taps = p->kernel_d * p->kernel_h * p->kernel_w;
    l.k = l.taps * l.group_in;
    l.positions = p->out_depth * p->out_height * p->out_width;
    l.columns = ss_round_up(p->rows * l.positions * l.k, 16);
    l.weights = ss_round_up(p->groups * l.k * l.group_out, 16);
    l.at_columns = l.weights;
    l.at_second = l.at_columns + l.columns;
    l.at_stack = pass == SS_CONV_FORWARD ? l.at_second : l.at_second + l.columns * ss_min(threads, p->groups);
    l.end = pass == SS_CONV_FORWARD ? l.at_stack : l.at_stack + depth * l.weights;
    return l;
}

int64_t ss_conv2d_blas_scratch(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads) { return layout_of(p, pass, depth, threads).end; }

/* W of a group as (kd, kh, kw, c) x o. */
void ss_conv2d_blas_pack(const ss_conv2d *p, ss_conv2d_pass pass, int thread, int threads) {
    layout l = layout_of(p, pass, p->fold->depth, threads);
    int64_t begin, end;
    ss_split(p->out_channels, 1, thread, threads, &begin, &end);
    if (thread == 0) ss_blas_one_thread();
    for (int64_t o = begin; o < end; o++) {
        int64_t group = o / l.group_out, j = o % l.group_out;
        for (int64_t c = 0; c < l.group_in; c++)
            for (int64_t tap = 0; tap < l.taps; tap++)
                p->scratch[(group * l.k + tap * l.group_in + c) * l.group_out + j] = p->weight[(o * l.group_in + c) * l.taps + tap];
    }
}

/* Where the tap `tap` of output position `at` lies in sample n of x, in positions; -1: outside. */
static int64_t tap_place(const ss_conv2d *p, int64_t n, int64_t at, int64_t tap) {
    int64_t d = at / (p->out_width * p->out_height) * p->stride_d + tap / (p->kernel_w * p->kernel_h) * p->dilation_d - p->pad_d;
    int64_t h = at / p->out_width % p->out_height * p->stride_h + tap / p->kernel_w % p->kernel_h * p->dilation_h - p->pad_h;
    int64_t w = at % p->out_width * p->stride_w + tap % p->kernel_w * p->dilation_w - p->pad_w;
    bool inside = d >= 0 && d < p->depth && h >= 0 && h < p->height && w >= 0 && w < p->width;
    return inside ? ((n * p->depth + d) * p->height + h) * p->width + w : -1;
}

/* Rows of taps (kd, kh, kw, c of the group) of the samples [begin, end). */
static void image_to_columns(const ss_conv2d *p, const layout *l, int64_t begin, int64_t end, int64_t group, float *columns) {
    for (int64_t n = begin; n < end; n++)
        for (int64_t at = 0; at < l->positions; at++)
            for (int64_t tap = 0; tap < l->taps; tap++, columns += l->group_in) {
                int64_t place = tap_place(p, n, at, tap);
                if (place >= 0) memcpy(columns, p->x + place * p->channels + group * l->group_in, (size_t)l->group_in * sizeof(float));
                else memset(columns, 0, (size_t)l->group_in * sizeof(float));
            }
}

static void columns_to_image(const ss_conv2d *p, const layout *l, int64_t begin, int64_t end, int64_t group, const float *columns) {
    for (int64_t n = begin; n < end; n++)
        for (int64_t at = 0; at < l->positions; at++)
            for (int64_t tap = 0; tap < l->taps; tap++, columns += l->group_in) {
                int64_t place = tap_place(p, n, at, tap);
                if (place < 0) continue;
                float *to = p->grad_x + place * p->channels + group * l->group_in;
                for (int64_t c = 0; c < l->group_in; c++) to[c] += columns[c];
            }
}

/* A lane's rows as sgemm sees them: the image itself for 1x1 kernels that take every position, columns otherwise. */
static const float *lane_columns(const ss_conv2d *p, const layout *l, int64_t begin, int64_t end, int64_t group, float *columns, int *leading) {
    if (l->taps == 1 && p->out_depth == p->depth && p->out_height == p->height && p->out_width == p->width && p->pad_d == 0 && p->pad_h == 0 && p->pad_w == 0 && p->stride_d == 1 &&
        p->stride_h == 1 && p->stride_w == 1) {
        *leading = (int)p->channels;
        return p->x + begin * l->positions * p->channels + group * l->group_in;
    }
    image_to_columns(p, l, begin, end, group, columns);
    *leading = (int)l->k;
    return columns;
}

void ss_conv2d_blas_forward(const ss_conv2d *p, int thread, int threads) {
    layout l = layout_of(p, SS_CONV_FORWARD, p->fold->depth, threads);
    int64_t first, last;
    ss_split(p->fold->lanes, 1, thread, threads, &first, &last);
    for (int64_t lane = first; lane < last; lane++) {
        int64_t begin = p->fold->row[lane], end = p->fold->row[lane + 1], m = (end - begin) * l.positions;
        float *y = p->y + begin * l.positions * p->out_channels;
        for (int64_t group = 0; group < p->groups; group++) {
            int leading;
            const float *a = lane_columns(p, &l, begin, end, group, p->scratch + l.at_columns + begin * l.positions * l.k, &leading);
            SS_CBLAS(sgemm)(SS_CBLAS_ROW_MAJOR, SS_CBLAS_NO_TRANS, SS_CBLAS_NO_TRANS, (int)m, (int)l.group_out, (int)l.k, 1.0f, a, leading,
                            p->scratch + group * l.k * l.group_out, (int)l.group_out, 0.0f, y + group * l.group_out, (int)p->out_channels);
        }
        for (int64_t i = 0; p->bias && i < m; i++)
            for (int64_t o = 0; o < p->out_channels; o++) y[i * p->out_channels + o] += p->bias[o];
    }
}

static void grad_x(const ss_conv2d *p, const layout *l, int thread, int threads) {
    int64_t first, last, image = p->depth * p->height * p->width, size = image * p->channels;
    ss_split(p->fold->lanes, 1, thread, threads, &first, &last);
    for (int64_t lane = first; lane < last; lane++) {
        int64_t begin = p->fold->row[lane], end = p->fold->row[lane + 1];
        float *columns = p->scratch + l->at_columns + begin * l->positions * l->k;
        memset(p->grad_x + begin * size, 0, (size_t)((end - begin) * size) * sizeof(float));
        for (int64_t group = 0; group < p->groups; group++) {
            SS_CBLAS(sgemm)(SS_CBLAS_ROW_MAJOR, SS_CBLAS_NO_TRANS, SS_CBLAS_TRANS, (int)((end - begin) * l->positions), (int)l->k, (int)l->group_out, 1.0f,
                            p->grad_y + begin * l->positions * p->out_channels + group * l->group_out, (int)p->out_channels,
                            p->scratch + group * l->k * l->group_out, (int)l->group_out, 0.0f, columns, (int)l->k);
            columns_to_image(p, l, begin, end, group, columns);
        }
        for (int64_t i = begin * image; p->x_bias && i < end * image; i++)
            for (int64_t c = 0; c < p->channels; c++) p->grad_x[i * p->channels + c] += p->x_bias[c];
    }
}

/* One group: threads cannot share it, because sgemm's bits follow from the whole call. */
static void grad_weight(const ss_conv2d *p, const layout *l, int64_t group, float *columns) {
    int64_t count = l->k * l->group_out;
    float *stack = p->scratch + l->at_stack + group * count;
    int top = 0;
    for (int lane = 0; lane < p->fold->lanes; lane++) {
        int64_t begin = p->fold->row[lane], end = p->fold->row[lane + 1];
        int leading;
        const float *a = lane_columns(p, l, begin, end, group, columns, &leading);
        SS_CBLAS(sgemm)(SS_CBLAS_ROW_MAJOR, SS_CBLAS_TRANS, SS_CBLAS_NO_TRANS, (int)l->k, (int)l->group_out, (int)((end - begin) * l->positions), 1.0f, a, leading,
                        p->grad_y + begin * l->positions * p->out_channels + group * l->group_out, (int)p->out_channels, 0.0f, stack + top * l->weights,
                        (int)l->group_out);
        top++;
        for (int adds = p->fold->adds[lane]; adds > 0; adds--, top--)
            for (int64_t i = 0; i < count; i++) stack[(top - 2) * l->weights + i] += stack[(top - 1) * l->weights + i];
    }
    for (int j = 0; j < top; j++)
        for (int64_t tap = 0; tap < l->taps; tap++)
            for (int64_t c = 0; c < l->group_in; c++)
                for (int64_t o = 0; o < l->group_out; o++)
                    p->grad_weight[j * p->block_stride + ((group * l->group_out + o) * l->group_in + c) * l->taps + tap] =
                        stack[j * l->weights + (tap * l->group_in + c) * l->group_out + o];
}

void ss_conv2d_blas_backward(const ss_conv2d *p, int thread, int threads) {
    layout l = layout_of(p, SS_CONV_BACKWARD, p->fold->depth, threads);
    if (p->grad_x) grad_x(p, &l, thread, threads);
    if (!p->grad_weight) return;
    for (int64_t group = thread; group < p->groups; group += threads) grad_weight(p, &l, group, p->scratch + l.at_second + thread * l.columns);
}
