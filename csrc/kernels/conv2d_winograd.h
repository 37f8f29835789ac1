/* Convolution by minimal filtering, F(2x2, 3x3): 4x4 values of the source and the 3x3 taps are transformed, multiplied element by element and turned into 2x2
 * results: 16 products instead of 36. Winograd, "Arithmetic Complexity of Computations" (1980); Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (2015).
 *
 * Which layers are computed this way follows from their shape alone (conv_winograd), because the order of sums is another one:
 *   t = along the height, then the width, of (d0 - d2, d1 + d2, d2 - d1, d1 - d3)                 of the source
 *   u = the same way, (g0, ((g0 + g2) + g1) / 2, ((g0 + g2) - g1) / 2, g2)                         of the weight
 *   m = one fused chain along the channels of t * u, from zero, for each of the 16 places
 *   y = the same way, ((m0 + m1) + m2, (m1 - m2) - m3), then the bias
 * Results come in squares that begin at the even positions; what lies outside the image counts as zero.
 *
 * This header has the transforms, the choice and the naive function; kernels/conv2d_winograd_tiles.h has the fast one.
 */
#ifndef SS_KERNELS_CONV2D_WINOGRAD_H
#define SS_KERNELS_CONV2D_WINOGRAD_H
#include <stdbool.h>
#include "kernels/kernels.h"
#include "kernels/variant.h"

/* Shapes for which it was measured to be faster: enough channels to hide the transforms, enough positions to fill squares. */
enum { WINOGRAD_LEAST_CHANNELS = 16, WINOGRAD_LEAST_EXTENT = 4 };
static inline bool conv_winograd(const ss_conv2d *p) {
    bool taps = p->kernel_d == 1 && p->kernel_h == 3 && p->kernel_w == 3, plain = p->groups == 1 && p->dilation_h == 1 && p->dilation_w == 1;
    bool steps = p->stride_h == 1 && p->stride_w == 1 && p->depth == 1 && p->out_depth == 1 && p->pad_d == 0;
    bool channels = p->channels >= WINOGRAD_LEAST_CHANNELS && p->out_channels >= WINOGRAD_LEAST_CHANNELS;
    bool extents = p->height >= WINOGRAD_LEAST_EXTENT && p->width >= WINOGRAD_LEAST_EXTENT && p->out_height >= WINOGRAD_LEAST_EXTENT && p->out_width >= WINOGRAD_LEAST_EXTENT;
    return p->backend == SS_BACKEND_NATIVE && taps && plain && steps && channels && extents;
}

/* One pass: the gradient of x is a convolution of the gradient of y with the taps turned round. */
typedef struct conv_square {
    int64_t source_h, source_w, source_c, dest_h, dest_w, dest_c, pad_h, pad_w;
    int64_t weight_dest, weight_source; /* floats between the taps of neighbouring channels */
    bool turned;
} conv_square;

static inline conv_square conv_square_forward(const ss_conv2d *p) {
    return (conv_square){p->height, p->width, p->channels, p->out_height, p->out_width, p->out_channels, p->pad_h, p->pad_w, 9 * p->channels, 9, false};
}
static inline conv_square conv_square_grad_x(const ss_conv2d *p) {
    return (conv_square){p->out_height, p->out_width, p->out_channels, p->height, p->width, p->channels, 2 - p->pad_h, 2 - p->pad_w, 9, 9 * p->channels, true};
}

/* The transforms, for any arithmetic type: reals and vectors of them. */
#define WINOGRAD_SOURCE(type, d, v)                                                                                                      \
    do {                                                                                                                                 \
        type t_[4][4];                                                                                                                   \
        for (int j = 0; j < 4; j++) t_[0][j] = d[0][j] - d[2][j], t_[1][j] = d[1][j] + d[2][j], t_[2][j] = d[2][j] - d[1][j], t_[3][j] = d[1][j] - d[3][j]; \
        for (int i = 0; i < 4; i++) v[i][0] = t_[i][0] - t_[i][2], v[i][1] = t_[i][1] + t_[i][2], v[i][2] = t_[i][2] - t_[i][1], v[i][3] = t_[i][1] - t_[i][3]; \
    } while (0)
#define WINOGRAD_WEIGHT(type, g, u)                                                                                                      \
    do {                                                                                                                                 \
        type t_[4][3];                                                                                                                   \
        for (int j = 0; j < 3; j++) {                                                                                                    \
            type s_ = g[0][j] + g[2][j];                                                                                                 \
            t_[0][j] = g[0][j], t_[1][j] = (s_ + g[1][j]) * half_, t_[2][j] = (s_ - g[1][j]) * half_, t_[3][j] = g[2][j];                \
        }                                                                                                                                \
        for (int i = 0; i < 4; i++) {                                                                                                    \
            type s_ = t_[i][0] + t_[i][2];                                                                                               \
            u[i][0] = t_[i][0], u[i][1] = (s_ + t_[i][1]) * half_, u[i][2] = (s_ - t_[i][1]) * half_, u[i][3] = t_[i][2];                \
        }                                                                                                                                \
    } while (0)
#define WINOGRAD_RESULT(type, m, y)                                                                                                      \
    do {                                                                                                                                 \
        type t_[2][4];                                                                                                                   \
        for (int j = 0; j < 4; j++) t_[0][j] = (m[0][j] + m[1][j]) + m[2][j], t_[1][j] = (m[1][j] - m[2][j]) - m[3][j];                  \
        for (int i = 0; i < 2; i++) y[i][0] = (t_[i][0] + t_[i][1]) + t_[i][2], y[i][1] = (t_[i][1] - t_[i][2]) - t_[i][3];              \
    } while (0)

/* Samples [begin, end). */
static inline void conv_naive_square(const conv_square *s, const real *source, const real *weight, const real *bias, real *dest, int64_t begin, int64_t end) {
    const real half_ = (real)0.5;
    for (int64_t n = begin; n < end; n++)
        for (int64_t h = 0; h < s->dest_h; h += 2)
            for (int64_t w = 0; w < s->dest_w; w += 2)
                for (int64_t o = 0; o < s->dest_c; o++) {
                    real m[4][4] = {{0}}, y[2][2];
                    for (int64_t c = 0; c < s->source_c; c++) {
                        real d[4][4], v[4][4], g[3][3], u[4][4];
                        const real *taps = weight + o * s->weight_dest + c * s->weight_source;
                        for (int i = 0; i < 4; i++)
                            for (int j = 0; j < 4; j++) {
                                int64_t y0 = h - s->pad_h + i, x0 = w - s->pad_w + j;
                                bool inside = y0 >= 0 && y0 < s->source_h && x0 >= 0 && x0 < s->source_w;
                                d[i][j] = inside ? source[((n * s->source_h + y0) * s->source_w + x0) * s->source_c + c] : (real)0;
                            }
                        for (int i = 0; i < 3; i++)
                            for (int j = 0; j < 3; j++) g[i][j] = s->turned ? taps[8 - 3 * i - j] : taps[3 * i + j];
                        WINOGRAD_SOURCE(real, d, v);
                        WINOGRAD_WEIGHT(real, g, u);
                        for (int i = 0; i < 4; i++)
                            for (int j = 0; j < 4; j++) m[i][j] = fma_r(v[i][j], u[i][j], m[i][j]);
                    }
                    WINOGRAD_RESULT(real, m, y);
                    for (int64_t i = 0; i < 2 && h + i < s->dest_h; i++)
                        for (int64_t j = 0; j < 2 && w + j < s->dest_w; j++)
                            dest[((n * s->dest_h + h + i) * s->dest_w + w + j) * s->dest_c + o] = bias ? y[i][j] + bias[o] : y[i][j];
                }
}

#endif
