/* Convolution as plain loops: the oracle of the fast kernels, the float64 reference, and the kernel of CPUs without FMA.
 *
 * Shared by kernels/conv2d.c (scalar) and ops/conv.h (references), so that there is one definition of the order of sums. `real` as in variant.h.
 */
#ifndef SS_KERNELS_CONV2D_NAIVE_H
#define SS_KERNELS_CONV2D_NAIVE_H
#include "kernels/conv2d_winograd.h"
#include "kernels/kernels.h"
#include "kernels/variant.h"

/* The same on every instruction set, so that the openblas backend, which leaves these convolutions to the native one, has the same bits on all. */
static inline bool conv_depthwise(const ss_conv2d *p) { return p->groups > 1 && p->groups == p->channels && p->out_channels / p->groups < 16; }

/* The geometry comes from p; its pointers are not read, so that double arrays can be passed. */

/* x[sample][d][h][w][c], 0 outside the image: padding taps are multiplications by zero. */
static inline real conv_at(const real *x, int64_t depth, int64_t height, int64_t width, int64_t channels, int64_t d, int64_t h, int64_t w, int64_t c) {
    return d >= 0 && d < depth && h >= 0 && h < height && w >= 0 && w < width ? x[((d * height + h) * width + w) * channels + c] : (real)0;
}

/* x where output (od, oh, ow) meets the tap (kd, kh, kw). */
static inline real conv_x_at(const ss_conv2d *p, const real *x, int64_t od, int64_t oh, int64_t ow, int64_t kd, int64_t kh, int64_t kw, int64_t c) {
    return conv_at(x, p->depth, p->height, p->width, p->channels, od * p->stride_d + kd * p->dilation_d - p->pad_d, oh * p->stride_h + kh * p->dilation_h - p->pad_h,
                   ow * p->stride_w + kw * p->dilation_w - p->pad_w, c);
}

/* Samples [begin, end). */
static inline void conv_naive_forward(const ss_conv2d *p, const real *x, const real *weight, const real *bias, real *y, int64_t begin, int64_t end) {
    int64_t group_in = p->channels / p->groups, group_out = p->out_channels / p->groups;
    if (conv_winograd(p)) {
        conv_square square = conv_square_forward(p);
        conv_naive_square(&square, x, weight, bias, y, begin, end);
        return;
    }
    for (int64_t n = begin; n < end; n++) {
        const real *xs = x + n * p->depth * p->height * p->width * p->channels;
        real *ys = y + n * p->out_depth * p->out_height * p->out_width * p->out_channels;
        for (int64_t od = 0; od < p->out_depth; od++)
            for (int64_t oh = 0; oh < p->out_height; oh++)
                for (int64_t ow = 0; ow < p->out_width; ow++)
                    for (int64_t o = 0; o < p->out_channels; o++) {
                        real sum = 0;
                        for (int64_t kd = 0; kd < p->kernel_d; kd++)
                            for (int64_t kh = 0; kh < p->kernel_h; kh++)
                                for (int64_t kw = 0; kw < p->kernel_w; kw++)
                                    for (int64_t c = 0; c < group_in; c++)
                                        sum = fma_r(conv_x_at(p, xs, od, oh, ow, kd, kh, kw, o / group_out * group_in + c),
                                                    weight[(((o * group_in + c) * p->kernel_d + kd) * p->kernel_h + kh) * p->kernel_w + kw], sum);
                        if (bias) sum += bias[o];
                        ys[((od * p->out_height + oh) * p->out_width + ow) * p->out_channels + o] = sum;
                    }
    }
}

/* Samples [begin, end). A tap whose distance the stride does not divide meets no output and is not in the chain; one whose output lies outside
 * counts as a multiplication by zero. bias (of the channels of x) may be NULL. */
static inline void conv_naive_grad_x(const ss_conv2d *p, const real *grad_y, const real *weight, const real *bias, real *grad_x, int64_t begin, int64_t end) {
    int64_t group_in = p->channels / p->groups, group_out = p->out_channels / p->groups, image = p->depth * p->height * p->width;
    if (conv_winograd(p)) {
        conv_square square = conv_square_grad_x(p);
        conv_naive_square(&square, grad_y, weight, bias, grad_x, begin, end);
        return;
    }
    for (int64_t n = begin; n < end; n++) {
        const real *gy = grad_y + n * p->out_depth * p->out_height * p->out_width * p->out_channels;
        real *gx = grad_x + n * image * p->channels;
        for (int64_t at = 0; at < image; at++) {
            int64_t d = at / (p->width * p->height), h = at / p->width % p->height, w = at % p->width;
            for (int64_t c = 0; c < p->channels; c++) {
                int64_t group = c / group_in;
                real sum = 0;
                for (int64_t kd = 0; kd < p->kernel_d; kd++)
                    for (int64_t kh = 0; kh < p->kernel_h; kh++)
                        for (int64_t kw = 0; kw < p->kernel_w; kw++) {
                            int64_t td = d + p->pad_d - kd * p->dilation_d, th = h + p->pad_h - kh * p->dilation_h, tw = w + p->pad_w - kw * p->dilation_w;
                            if (td % p->stride_d || th % p->stride_h || tw % p->stride_w) continue;
                            for (int64_t j = 0; j < group_out; j++) {
                                int64_t o = group * group_out + j;
                                sum = fma_r(conv_at(gy, p->out_depth, p->out_height, p->out_width, p->out_channels, td / p->stride_d, th / p->stride_h, tw / p->stride_w, o),
                                            weight[(((o * group_in + c - group * group_in) * p->kernel_d + kd) * p->kernel_h + kh) * p->kernel_w + kw], sum);
                            }
                        }
                if (bias) sum += bias[c];
                gx[at * p->channels + c] = sum;
            }
        }
    }
}

/* Elements [begin, end) of the weight, in its own layout. */
static inline void conv_naive_grad_weight(const ss_conv2d *p, const real *x, const real *grad_y, real *grad_weight, int64_t begin, int64_t end) {
    int64_t group_in = p->channels / p->groups, group_out = p->out_channels / p->groups, image = p->depth * p->height * p->width;
    int64_t taps = p->kernel_d * p->kernel_h * p->kernel_w, positions = p->out_depth * p->out_height * p->out_width;
    const bool paired = p->bf16 && !conv_depthwise(p);
    real stack[32];
    for (int64_t e = begin; e < end; e++) {
        int64_t kw = e % p->kernel_w, kh = e / p->kernel_w % p->kernel_h, kd = e / (p->kernel_w * p->kernel_h) % p->kernel_d, c = e / taps % group_in, o = e / (taps * group_in);
        int top = 0;
        for (int lane = 0; lane < p->fold->lanes; lane++) {
            real sum = 0;
            for (int64_t n = p->fold->row[lane]; n < p->fold->row[lane + 1] && paired; n++)
                for (int64_t at = 0; at < positions; at += at % p->out_width + 1 == p->out_width ? 1 : 2) {
                    int64_t od = at / (p->out_width * p->out_height), oh = at / p->out_width % p->out_height, ow = at % p->out_width, channel = o / group_out * group_in + c;
                    const real *xs = x + n * image * p->channels, *gy = grad_y + (n * positions + at) * p->out_channels + o;
                    bool odd = ow + 1 < p->out_width;
                    sum = fma_r(bf16_r(conv_x_at(p, xs, od, oh, ow + 1, kd, kh, kw, channel)), odd ? bf16_r(gy[p->out_channels]) : 0, sum);
                    sum = fma_r(bf16_r(conv_x_at(p, xs, od, oh, ow, kd, kh, kw, channel)), bf16_r(gy[0]), sum);
                }
            for (int64_t n = p->fold->row[lane]; n < p->fold->row[lane + 1] && !paired; n++)
                for (int64_t at = 0; at < positions; at++)
                    sum = fma_r(conv_x_at(p, x + n * image * p->channels, at / (p->out_width * p->out_height), at / p->out_width % p->out_height, at % p->out_width, kd, kh, kw,
                                          o / group_out * group_in + c),
                                grad_y[(n * positions + at) * p->out_channels + o], sum);
            stack[top++] = sum;
            for (int adds = p->fold->adds[lane]; adds > 0 && top > 1; adds--, top--) stack[top - 2] += stack[top - 1];
        }
        for (int j = 0; j < top; j++) grad_weight[j * p->block_stride + e] = stack[j];
    }
}

#endif
