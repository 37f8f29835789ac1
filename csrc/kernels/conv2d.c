/* Convolution over one to three axes, native backend: direct, channels last, without im2col. 1-d and 2-d are 3-d with extents of 1.
 *
 * All three passes are matrix products whose left operand is an image read through tables of offsets (conv2d_tile.h). A sample whose taps reach outside is first
 * copied into a buffer with a border of zeros, one buffer a thread; others are read in place.
 *
 *   forward          rows: output positions             steps: (kd, kh, kw, c)      B: weight, packed
 *   gradient of x    rows: positions of x of one class  steps: (kd, kh, kw, o)      B: weight, packed by classes
 *   gradient of w    rows: (kd, kh, kw, c)              steps: positions            B: gradient of y, in place
 *
 * With a stride s the positions of x fall into s*s (3-d: s*s*s) classes by (h + pad) mod s; each class meets its own taps and no others, so nothing is multiplied by
 * the zeros between the outputs. Small images are taken several samples at a time (conv_map.samples), which fills the tiles.
 *
 * Outputs and gradients of x of 3x3 taps without stride go through minimal filtering (conv2d_winograd.h). The gradient of w of few outputs is turned: vectors run along (kw, c).
 * With bf16 the gradient of w multiplies pairs of positions, of copies of the image and of the gradient of y.
 *
 * Where each output channel reads one channel of x (depthwise), vectors run across channels instead (conv2d_depthwise.h). With a multiplier m each channel of x stands
 * m times in the buffer, and for the gradient of x the m outputs of a channel stand in m planes of a position: so channels of both operands always run together.
 */
#include "kernels/conv2d_blas.h"

#include <assert.h>
#include <string.h>

#include "base/shape.h"
#include "kernels/conv2d_depthwise.h"
#include "kernels/conv2d_naive.h"
#include "kernels/internal.h"

static bool openblas(const ss_conv2d *p) { return p->backend == SS_BACKEND_OPENBLAS && !conv_depthwise(p) && !p->bf16; }

#ifdef SS_CONV_VECTOR
#include "kernels/conv2d_winograd_tiles.h"

/* The gradient of the weight multiplies pairs of positions. */
static bool paired(const ss_conv2d *p) { return p->bf16 && !conv_depthwise(p); }

/* Output positions, or steps of a weight gradient, that are worked on together: their operands stay in the first-level cache. */
enum { BLOCK_ROWS = 96, BLOCK_STEPS = 256, CHUNK_POSITIONS = 64 };

/* Positions and steps of a class: ranges of a sample's positions and of the steps. */
typedef struct conv_class {
    int64_t row_begin, row_end, step_begin, step_end;
} conv_class;

/* A pass that maps a source image to a destination image. Offsets `at_*` are in floats from the start of the scratch. */
typedef struct conv_map {
    int64_t source_d, source_h, source_w, source_c, dest_c, group_source, group_dest; /* of one sample, channels of all groups and of one */
    int64_t first_d, first_h, first_w, padded_d, padded_h, padded_w; /* the part of the source that taps reach, from (first_d, first_h, first_w) on; may stick out */
    bool depthwise, copied;
    int64_t repeat, planes; /* depthwise: how often each channel stands in the buffer; into how many planes the channels of a position are sorted */
    int64_t view_c;         /* channels of what the tables point into */
    int64_t channel_step;   /* floats between the channels of a group there */
    int64_t row_step, plane_step; /* floats between its image rows, and between its planes of height x width */
    int64_t sample_step; /* floats between its samples */
    int64_t source_size, dest_size, rows, steps, samples, classes;
    int64_t at_class, at_row, at_out, at_step, at_packed, at_buffer, buffer, end;
} conv_map;

static int64_t take(int64_t *at, int64_t floats) {
    int64_t begin = *at;
    *at = ss_round_up(begin + floats, 16);
    return begin;
}

static int64_t vector_round(int64_t n) { return ss_round_up(n, VEC_WIDTH); }
static int64_t taps_of(const ss_conv2d *p) { return p->kernel_d * p->kernel_h * p->kernel_w; }

/* Lays out the tables from `at` on; weights are packed and buffers kept only where the pass needs them. */
static void map_layout(conv_map *m, const ss_conv2d *p, int64_t at, bool packed, int threads) {
    bool sticks_out = m->first_d < 0 || m->first_h < 0 || m->first_w < 0 || m->first_d + m->padded_d > m->source_d || m->first_h + m->padded_h > m->source_h ||
                      m->first_w + m->padded_w > m->source_w;
    m->source_size = m->source_d * m->source_h * m->source_w * m->source_c;
    m->copied = sticks_out || m->repeat > 1 || m->planes > 1;
    m->view_c = m->source_c * m->repeat;
    m->channel_step = m->view_c / m->planes;
    if (!m->depthwise) m->channel_step = 1;
    m->row_step = (m->copied ? m->padded_w : m->source_w) * m->view_c;
    m->plane_step = (m->copied ? m->padded_h : m->source_h) * m->row_step;
    m->sample_step = m->copied ? m->padded_d * m->plane_step : m->source_size;
    m->samples = m->rows >= CHUNK_POSITIONS ? 1 : (CHUNK_POSITIONS + m->rows - 1) / m->rows;
    m->steps = taps_of(p) * m->group_source;
    const int64_t words = sizeof(int64_t) / sizeof(float);
    m->at_class = take(&at, m->classes * 4 * words);
    m->at_row = take(&at, m->rows * m->samples * words);
    m->at_out = take(&at, m->rows * m->samples * words);
    m->at_step = take(&at, m->steps * words);
    m->at_packed = take(&at, !packed ? 0 : m->depthwise ? m->steps * vector_round(m->dest_c) : p->groups * m->steps * vector_round(m->group_dest));
    m->buffer = m->copied ? ss_round_up(m->samples * m->sample_step, 16) : 0;
    m->at_buffer = take(&at, m->buffer * threads);
    m->end = at;
}

static conv_map map_forward(const ss_conv2d *p, int64_t at, bool packed, int threads) {
    conv_map m = {.source_d = p->depth, .source_h = p->height, .source_w = p->width, .source_c = p->channels, .dest_c = p->out_channels, .depthwise = conv_depthwise(p), .planes = 1};
    m.group_source = p->channels / p->groups;
    m.group_dest = p->out_channels / p->groups;
    m.repeat = m.depthwise ? m.group_dest : 1;
    m.first_d = -p->pad_d;
    m.first_h = -p->pad_h;
    m.first_w = -p->pad_w;
    m.padded_d = (p->out_depth - 1) * p->stride_d + (p->kernel_d - 1) * p->dilation_d + 1;
    m.padded_h = (p->out_height - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1;
    m.padded_w = (p->out_width - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
    m.rows = p->out_depth * p->out_height * p->out_width;
    m.dest_size = m.rows * m.dest_c;
    m.classes = 1;
    map_layout(&m, p, at, packed, threads);
    return m;
}

static conv_map map_grad_x(const ss_conv2d *p, int64_t at, int threads) {
    conv_map m = {.source_d = p->out_depth, .source_h = p->out_height, .source_w = p->out_width, .source_c = p->out_channels, .dest_c = p->channels, .depthwise = conv_depthwise(p), .repeat = 1};
    m.group_source = p->out_channels / p->groups;
    m.group_dest = p->channels / p->groups;
    m.planes = m.depthwise ? m.group_source : 1;
    /* Position h of x meets output (h + pad) / s - kh*d / s, both divisions rounded down. */
    m.first_d = p->pad_d / p->stride_d - (p->kernel_d - 1) * p->dilation_d / p->stride_d;
    m.first_h = p->pad_h / p->stride_h - (p->kernel_h - 1) * p->dilation_h / p->stride_h;
    m.first_w = p->pad_w / p->stride_w - (p->kernel_w - 1) * p->dilation_w / p->stride_w;
    m.padded_d = (p->pad_d + p->depth - 1) / p->stride_d - m.first_d + 1;
    m.padded_h = (p->pad_h + p->height - 1) / p->stride_h - m.first_h + 1;
    m.padded_w = (p->pad_w + p->width - 1) / p->stride_w - m.first_w + 1;
    m.rows = p->depth * p->height * p->width;
    m.dest_size = m.rows * m.dest_c;
    m.classes = p->stride_d * p->stride_h * p->stride_w;
    map_layout(&m, p, at, true, threads);
    return m;
}

/* Offset of plane d, image row h, column w (coordinates of the source) in what the tables point into. */
static int64_t map_offset(const conv_map *m, int64_t d, int64_t h, int64_t w) {
    if (m->copied) d -= m->first_d, h -= m->first_h, w -= m->first_w;
    return d * m->plane_step + h * m->row_step + w * m->view_c;
}

static void fill_forward(const ss_conv2d *p, const conv_map *m) {
    int64_t *row = (int64_t *)(p->scratch + m->at_row), *out = (int64_t *)(p->scratch + m->at_out), *step = (int64_t *)(p->scratch + m->at_step);
    *(conv_class *)(p->scratch + m->at_class) = (conv_class){0, m->rows, 0, m->steps};
    for (int64_t n = 0; n < m->samples; n++)
        for (int64_t od = 0; od < p->out_depth; od++)
            for (int64_t oh = 0; oh < p->out_height; oh++)
                for (int64_t ow = 0; ow < p->out_width; ow++) {
                    *row++ = n * m->sample_step + map_offset(m, od * p->stride_d - p->pad_d, oh * p->stride_h - p->pad_h, ow * p->stride_w - p->pad_w);
                    *out++ = n * m->dest_size + ((od * p->out_height + oh) * p->out_width + ow) * m->dest_c;
                }
    for (int64_t kd = 0; kd < p->kernel_d; kd++)
        for (int64_t kh = 0; kh < p->kernel_h; kh++)
            for (int64_t kw = 0; kw < p->kernel_w; kw++)
                for (int64_t c = 0; c < m->group_source; c++) *step++ = kd * p->dilation_d * m->plane_step + kh * p->dilation_h * m->row_step + kw * p->dilation_w * m->view_c + c;
}

/* The first position h >= 0 of x with (h + pad) mod s = remainder. */
static int64_t class_first(int64_t remainder, int64_t pad, int64_t stride) { return (remainder + stride - pad % stride) % stride; }

/* The remainders of a class, and whether a tap belongs to it. */
typedef struct conv_rest {
    int64_t d, h, w;
} conv_rest;
static conv_rest class_rest(const ss_conv2d *p, int64_t class) {
    return (conv_rest){class / (p->stride_w * p->stride_h), class / p->stride_w % p->stride_h, class % p->stride_w};
}
static bool tap_in_class(const ss_conv2d *p, conv_rest rest, int64_t tap) {
    int64_t kd = tap / (p->kernel_w * p->kernel_h), kh = tap / p->kernel_w % p->kernel_h, kw = tap % p->kernel_w;
    return kd * p->dilation_d % p->stride_d == rest.d && kh * p->dilation_h % p->stride_h == rest.h && kw * p->dilation_w % p->stride_w == rest.w;
}

static void fill_grad_x(const ss_conv2d *p, const conv_map *m) {
    int64_t *row = (int64_t *)(p->scratch + m->at_row), *out = (int64_t *)(p->scratch + m->at_out), *step = (int64_t *)(p->scratch + m->at_step);
    conv_class *class = (conv_class *)(p->scratch + m->at_class);
    int64_t rows = 0, steps = 0;
    for (int64_t i = 0; i < m->classes; i++, class++) {
        conv_rest rest = class_rest(p, i);
        int64_t first_d = class_first(rest.d, p->pad_d, p->stride_d), first_h = class_first(rest.h, p->pad_h, p->stride_h), first_w = class_first(rest.w, p->pad_w, p->stride_w);
        int64_t count = 0;
        class->row_begin = rows;
        class->step_begin = steps;
        for (int64_t n = 0; n < m->samples; n++)
            for (int64_t d = first_d; d < p->depth; d += p->stride_d)
                for (int64_t h = first_h; h < p->height; h += p->stride_h)
                    for (int64_t w = first_w; w < p->width; w += p->stride_w) {
                        *row++ = n * m->sample_step + map_offset(m, (d + p->pad_d) / p->stride_d, (h + p->pad_h) / p->stride_h, (w + p->pad_w) / p->stride_w);
                        *out++ = n * m->dest_size + ((d * p->height + h) * p->width + w) * m->dest_c;
                        count++;
                    }
        for (int64_t tap = 0; tap < taps_of(p); tap++) {
            if (!tap_in_class(p, rest, tap)) continue;
            int64_t kd = tap / (p->kernel_w * p->kernel_h), kh = tap / p->kernel_w % p->kernel_h, kw = tap % p->kernel_w;
            int64_t place = -(kd * p->dilation_d / p->stride_d * m->plane_step + kh * p->dilation_h / p->stride_h * m->row_step + kw * p->dilation_w / p->stride_w * m->view_c);
            for (int64_t o = 0; o < m->group_source; o++) *step++ = place + o * m->channel_step;
            steps += m->group_source;
        }
        rows += count / m->samples;
        class->row_end = rows;
        class->step_end = steps;
    }
    assert(rows == m->rows && steps == m->steps);
}

/* Packs this thread's share of the weight: step `t` of a group becomes a row of `group_dest` columns, cut in panels. */
static void pack_row(const conv_map *m, float *packed, int64_t class_steps, int64_t t, const float *weight, int64_t stride) {
    int64_t panels = conv_panels(m->group_dest);
    for (int64_t panel = 0; panel < panels; panel++) {
        int64_t begin, end;
        conv_panel(m->group_dest, panel, &begin, &end);
        int64_t first = begin * VEC_WIDTH, width = (end - begin) * VEC_WIDTH, valid = ss_min(width, m->group_dest - first);
        float *to = packed + first * class_steps + t * width;
        for (int64_t j = 0; j < valid; j++) to[j] = weight[(first + j) * stride];
        for (int64_t j = valid; j < width; j++) to[j] = 0;
    }
}

/* Depthwise: a step is a row of all channels. */
static void pack_channels(const conv_map *m, float *packed, int64_t t, const float *weight, int64_t stride) {
    int64_t width = vector_round(m->dest_c);
    float *to = packed + t * width;
    for (int64_t j = 0; j < m->dest_c; j++) to[j] = weight[j * stride];
    for (int64_t j = m->dest_c; j < width; j++) to[j] = 0;
}

static void pack_forward(const ss_conv2d *p, const conv_map *m, int thread, int threads) {
    int64_t begin, end, taps = taps_of(p);
    ss_split((m->depthwise ? 1 : p->groups) * m->steps, 1, thread, threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        if (m->depthwise) {
            pack_channels(m, p->scratch + m->at_packed, i, p->weight + i, taps);
            continue;
        }
        int64_t group = i / m->steps, t = i % m->steps, tap = t / m->group_source, c = t % m->group_source;
        pack_row(m, p->scratch + m->at_packed + group * m->steps * vector_round(m->group_dest), m->steps, t,
                 p->weight + (group * m->group_dest * m->group_source + c) * taps + tap, m->group_source * taps);
    }
}

/* The taps of a group, class after class, are dealt to threads. */
static void pack_grad_x(const ss_conv2d *p, const conv_map *m, int thread, int threads) {
    int64_t begin, end, taps = taps_of(p), i = 0, groups = m->depthwise ? 1 : p->groups;
    ss_split(groups * taps, 1, thread, threads, &begin, &end);
    for (int64_t group = 0; group < groups; group++)
        for (int64_t class = 0, first = 0; class < m->classes; class++) {
            conv_rest rest = class_rest(p, class);
            int64_t class_taps = 0, t = 0;
            for (int64_t tap = 0; tap < taps; tap++) class_taps += tap_in_class(p, rest, tap);
            float *packed = p->scratch + m->at_packed + (group * m->steps + first * m->group_source) * vector_round(m->depthwise ? m->dest_c : m->group_dest);
            for (int64_t tap = 0; tap < taps; tap++) {
                if (!tap_in_class(p, rest, tap)) continue;
                for (int64_t o = 0; o < m->group_source && i >= begin && i < end; o++) {
                    if (m->depthwise) pack_channels(m, packed, t * m->group_source + o, p->weight + o * taps + tap, m->group_source * taps);
                    else
                        pack_row(m, packed, class_taps * m->group_source, t * m->group_source + o, p->weight + (group * m->group_source + o) * m->group_dest * taps + tap, taps);
                }
                i++;
                t++;
            }
            first += class_taps;
        }
}

static float *thread_buffer(const ss_conv2d *p, const conv_map *m, int thread) {
    if (!m->copied) return NULL;
    float *buffer = p->scratch + m->at_buffer + m->buffer * thread;
    memset(buffer, 0, (size_t)(m->samples * m->sample_step) * sizeof(float)); /* the border stays zero; load_samples writes the rest */
    return buffer;
}

/* `count` positions, the channels repeated or sorted into planes. */
static void load_positions(const conv_map *m, const float *source, int64_t count, float *to) {
    if (m->repeat == 1 && m->planes == 1) {
        memcpy(to, source, (size_t)(count * m->source_c) * sizeof(float));
    } else if (m->planes == 1) {
        for (int64_t i = 0; i < count * m->source_c; i++)
            for (int64_t j = 0; j < m->repeat; j++) *to++ = source[i];
    } else {
        for (int64_t i = 0; i < count; i++, source += m->source_c, to += m->source_c)
            for (int64_t j = 0; j < m->planes; j++)
                for (int64_t c = 0; c < m->channel_step; c++) to[j * m->channel_step + c] = source[c * m->planes + j];
    }
}

/* `count` samples as the tables see them: the image itself, or its copy inside the border. */
static const float *load_samples(const conv_map *m, const float *source, int64_t count, float *buffer) {
    if (!m->copied) return source;
    int64_t d0 = ss_max(m->first_d, 0), d1 = ss_min(m->first_d + m->padded_d, m->source_d);
    int64_t h0 = ss_max(m->first_h, 0), h1 = ss_min(m->first_h + m->padded_h, m->source_h);
    int64_t w0 = ss_max(m->first_w, 0), w1 = ss_min(m->first_w + m->padded_w, m->source_w);
    if (w1 <= w0) return buffer;
    for (int64_t n = 0; n < count; n++)
        for (int64_t d = d0; d < d1; d++)
            for (int64_t h = h0; h < h1; h++)
                load_positions(m, source + n * m->source_size + ((d * m->source_h + h) * m->source_w + w0) * m->source_c, w1 - w0,
                               buffer + n * m->sample_step + map_offset(m, d, h, w0));
    return buffer;
}

/* Destination positions of all samples are dealt to threads in contiguous runs; a run may begin and end inside a chunk of samples. */
static void map_run(const ss_conv2d *p, const conv_map *m, const float *source, float *dest, const float *bias, int thread, int threads) {
    const int64_t *row = (const int64_t *)(p->scratch + m->at_row), *out = (const int64_t *)(p->scratch + m->at_out);
    const int64_t *step = (const int64_t *)(p->scratch + m->at_step);
    const conv_class *class = (const conv_class *)(p->scratch + m->at_class);
    const float *packed = p->scratch + m->at_packed;
    int64_t round = vector_round(m->group_dest), begin, end, chunk_rows = m->samples * m->rows;
    ss_split(p->rows * m->rows, 8, thread, threads, &begin, &end);
    if (begin == end) return;
    float *buffer = thread_buffer(p, m, thread);
    for (int64_t chunk = begin / chunk_rows; chunk * chunk_rows < end; chunk++) {
        int64_t first = chunk * m->samples, count = ss_min(m->samples, p->rows - first);
        int64_t lo = ss_max(begin - chunk * chunk_rows, 0), hi = ss_min(end - chunk * chunk_rows, count * m->rows);
        const float *a = load_samples(m, source + first * m->source_size, count, buffer);
        for (int64_t j = 0; j < m->classes; j++) {
            /* The positions of a class stand together in the tables, sample after sample. */
            int64_t r0 = ss_max(lo, count * class[j].row_begin), r1 = ss_min(hi, count * class[j].row_end);
            int64_t table = (m->samples - count) * class[j].row_begin, steps = class[j].step_end - class[j].step_begin;
            for (int64_t r = r0; r < r1 && m->depthwise; r += BLOCK_ROWS) {
                depthwise_block block = {.a = a, .row_off = row + table + r, .step_off = step + class[j].step_begin, .m = ss_min(BLOCK_ROWS, r1 - r), .n = m->dest_c, .steps = steps,
                                         .b = packed + class[j].step_begin * vector_round(m->dest_c), .b_step = vector_round(m->dest_c), .c = dest + first * m->dest_size,
                                         .c_off = out + table + r, .bias = bias};
                depthwise_block_run(&block);
            }
            for (int64_t r = r0; r < r1 && !m->depthwise; r += BLOCK_ROWS)
                for (int64_t group = 0; group < p->groups; group++) {
                    conv_block block = {.a = a + group * m->group_source, .row_off = row + table + r, .step_off = step + class[j].step_begin,
                                        .m = ss_min(BLOCK_ROWS, r1 - r), .n = m->group_dest, .steps = steps,
                                        .b = packed + (group * m->steps + class[j].step_begin) * round,
                                        .c = dest + first * m->dest_size + group * m->group_dest, .c_off = out + table + r,
                                        .bias = bias ? bias + group * m->group_dest : NULL, .runs = m->group_source % 4 == 0};
                    conv_block_run(&block);
                }
        }
    }
}

/* Where the weight's gradient is summed: a stack of partials (groups*K, columns), columns = outputs of a group rounded up to vectors; depthwise (K, all outputs);
 * few outputs (turned) (outputs, K rounded up). */
typedef struct conv_sums {
    int64_t rows, columns, at_out, at_stack, end;
    /* pairs: places of the first of each pair in a chunk of samples, pairs of a sample; a thread's copies of the image and of the output's gradient as pairs */
    int64_t pairs, at_pair, at_image, image, at_gradient, gradient;
} conv_sums;

/* Few outputs and a long run of neighbouring (kw, c): vectors along that run load less for each product. */
enum { TURNED_MOST_OUTPUTS = 32, TURNED_LEAST_SPAN = 32 };
static bool turned_sums(const ss_conv2d *p) {
    return p->groups == 1 && (p->dilation_w == 1 || p->kernel_w == 1) && p->out_channels <= TURNED_MOST_OUTPUTS && p->kernel_w * p->channels >= TURNED_LEAST_SPAN;
}

static conv_sums sums_layout(const ss_conv2d *p, const conv_map *m, int64_t at, int depth, int threads) {
    conv_sums s = {.rows = m->depthwise ? m->steps : p->groups * m->steps, .columns = vector_round(m->depthwise ? m->dest_c : m->group_dest)};
    if (turned_sums(p)) {
        s.columns = vector_round(s.rows);
        s.rows = p->out_channels;
    }
    s.at_out = take(&at, s.rows * (int64_t)(sizeof(int64_t) / sizeof(float)));
    if (paired(p)) {
        s.pairs = p->out_depth * p->out_height * ((p->out_width + 1) / 2);
        s.at_pair = take(&at, s.pairs * m->samples * (int64_t)(sizeof(int64_t) / sizeof(float)));
        s.image = ss_round_up(m->samples * m->sample_step, 16);
        s.at_image = take(&at, s.image * threads);
        s.gradient = ss_round_up(m->samples * s.pairs * m->dest_c, 16);
        s.at_gradient = take(&at, s.gradient * threads);
    }
    s.at_stack = take(&at, depth * s.rows * s.columns);
    s.end = at;
    return s;
}

/* Where the first position of each pair lies, sample after sample of a chunk. */
static void fill_pairs(const ss_conv2d *p, const conv_map *m, const conv_sums *s) {
    const int64_t *row = (const int64_t *)(p->scratch + m->at_row);
    int64_t *pair = (int64_t *)(p->scratch + s->at_pair);
    for (int64_t line = 0; line < m->samples * p->out_depth * p->out_height; line++)
        for (int64_t ow = 0; ow < p->out_width; ow += 2) *pair++ = row[line * p->out_width + ow];
}

/* The image with every position joined to the one a stride to its right; `view` as the tables see it. What lies beyond the view counts as zero: only a gradient of zero meets it. */
static const float *pair_image(const ss_conv2d *p, const conv_map *m, const conv_sums *s, const float *view, int64_t count, int thread) {
    float *to = p->scratch + s->at_image + s->image * thread;
    const int64_t length = count * m->sample_step, shift = p->stride_w * m->view_c, whole = ss_max(length - shift, 0);
#if defined(__AVX512F__)
    for (int64_t i = 0; i < whole; i += VEC_WIDTH) {
        const vec_mask mask = vec_first(whole - i);
        vec_store_mask(to + i, pairs_join(pairs_round(vec_load_mask(view + i, mask)), pairs_round(vec_load_mask(view + i + shift, mask))), mask);
    }
#else
    for (int64_t i = 0; i < whole; i++) to[i] = pair_of(view[i], view[i + shift]);
#endif
    for (int64_t i = whole; i < length; i++) to[i] = pair_of(view[i], 0);
    return to;
}

/* The output's gradient, positions of a row in pairs. */
static const float *pair_gradient(const ss_conv2d *p, const conv_map *m, const conv_sums *s, const float *grad, int64_t count, int thread) {
    float *to = p->scratch + s->at_gradient + s->gradient * thread;
    const int64_t step = (p->out_width + 1) / 2 * m->dest_c;
    for (int64_t line = 0; line < count * p->out_depth * p->out_height; line++)
        pairs_of_rows(p->out_width, m->dest_c, grad + line * p->out_width * m->dest_c, m->dest_c, to + line * step, m->dest_c);
    return to;
}

/* What a chunk of samples brings to the gradient of the weight: positions, or pairs of them. */
typedef struct conv_chunk {
    const float *image, *gradient;
    const int64_t *place;
    int64_t steps;
    bool pairs;
} conv_chunk;

static conv_chunk chunk_at(const ss_conv2d *p, const conv_map *m, const conv_sums *s, int64_t first, int64_t count, float *buffer, int thread) {
    conv_chunk k = {load_samples(m, p->x + first * m->source_size, count, buffer), p->grad_y + first * m->dest_size, (const int64_t *)(p->scratch + m->at_row), count * m->rows, paired(p)};
    if (!k.pairs) return k;
    k.image = pair_image(p, m, s, k.image, count, thread);
    k.gradient = pair_gradient(p, m, s, k.gradient, count, thread);
    k.place = (const int64_t *)(p->scratch + s->at_pair);
    k.steps = count * s->pairs;
    return k;
}

/* Rows [begin, end) of all groups' (kd, kh, kw, c), over the samples of one lane, into `sums`. */
static void weight_lane(const ss_conv2d *p, const conv_map *m, const conv_sums *s, int64_t begin, int64_t end, int lane, float *buffer, float *sums, int thread) {
    const int64_t *step = (const int64_t *)(p->scratch + m->at_step);
    const int64_t *out = (const int64_t *)(p->scratch + s->at_out);
    bool resume = false;
    for (int64_t first = p->fold->row[lane]; first < p->fold->row[lane + 1]; first += m->samples) {
        int64_t count = ss_min(m->samples, p->fold->row[lane + 1] - first);
        const conv_chunk chunk = chunk_at(p, m, s, first, count, buffer, thread);
        for (int64_t r = 0; r < chunk.steps; r += BLOCK_STEPS, resume = true)
            for (int64_t k = begin; k < end;) {
                int64_t group = k / m->steps, stop = ss_min(end, (group + 1) * m->steps);
                conv_block block = {.a = chunk.image + group * m->group_source, .row_off = step + k - group * m->steps, .step_off = chunk.place + r, .m = stop - k,
                                    .n = m->group_dest, .steps = ss_min(BLOCK_STEPS, chunk.steps - r), .b = chunk.gradient + r * m->dest_c + group * m->group_dest,
                                    .b_step = m->dest_c, .c = sums, .c_off = out + k, .resume = resume, .pairs = chunk.pairs};
                conv_block_run(&block);
                k = stop;
            }
    }
}

static void weight_run(const ss_conv2d *p, const conv_map *m, const conv_sums *s, int thread, int threads) {
    int64_t begin, end, width = s->rows * s->columns, taps = taps_of(p);
    ss_split(s->rows, 1, thread, threads, &begin, &end);
    if (begin == end) return;
    float *stack = p->scratch + s->at_stack, *buffer = thread_buffer(p, m, thread);
    int top = 0;
    for (int lane = 0; lane < p->fold->lanes; lane++) {
        weight_lane(p, m, s, begin, end, lane, buffer, stack + top++ * width, thread);
        for (int adds = p->fold->adds[lane]; adds > 0; adds--, top--) {
            float *restrict a = stack + (top - 2) * width;
            const float *restrict b = stack + (top - 1) * width;
            for (int64_t i = begin * s->columns; i < end * s->columns; i++) a[i] += b[i];
        }
    }
    for (int j = 0; j < top; j++)
        for (int64_t k = begin; k < end; k++) {
            int64_t group = k / m->steps, t = k % m->steps, tap = t / m->group_source, c = t % m->group_source;
            const float *from = stack + j * width + k * s->columns;
            float *to = p->grad_weight + j * p->block_stride + (group * m->group_dest * m->group_source + c) * taps + tap;
            for (int64_t o = 0; o < m->group_dest; o++) to[o * m->group_source * taps] = from[o];
        }
}

/* Turned. A unit is a tile of outputs and (kw, c), outputs first. */
typedef struct turned_units {
    int64_t span, spans, pieces, outputs, count; /* floats of a run; runs; tiles of a run; tiles of the outputs */
} turned_units;

static turned_units units_of(const ss_conv2d *p) {
    turned_units u = {.span = p->kernel_w * p->channels, .spans = p->kernel_d * p->kernel_h, .outputs = (p->out_channels + SPAN_ROWS - 1) / SPAN_ROWS};
    u.pieces = (u.span + SPAN_VECTORS * VEC_WIDTH - 1) / (SPAN_VECTORS * VEC_WIDTH);
    u.count = u.spans * u.pieces * u.outputs;
    return u;
}

/* Unit i: outputs [o, o + rows), places [k, k + n) of the K. */
static void unit_at(const ss_conv2d *p, const turned_units *u, int64_t i, int64_t *o, int64_t *rows, int64_t *k, int64_t *n) {
    int64_t output = i % u->outputs, piece = i / u->outputs % u->pieces, span = i / (u->outputs * u->pieces), at = piece * SPAN_VECTORS * VEC_WIDTH;
    *o = tile_begin(p->out_channels, u->outputs, output);
    *rows = tile_begin(p->out_channels, u->outputs, output + 1) - *o;
    *k = span * u->span + at;
    *n = ss_min(u->span - at, SPAN_VECTORS * VEC_WIDTH);
}

static void turned_lane(const ss_conv2d *p, const conv_map *m, const conv_sums *s, const turned_units *u, int64_t begin, int64_t end, int lane, float *buffer, float *sums, int thread) {
    const int64_t *step = (const int64_t *)(p->scratch + m->at_step);
    const bool native = pairs_kind() == PRODUCT_PAIRS;
    bool resume = false;
    for (int64_t first = p->fold->row[lane]; first < p->fold->row[lane + 1]; first += m->samples) {
        int64_t count = ss_min(m->samples, p->fold->row[lane + 1] - first), o, rows, k, n;
        const conv_chunk chunk = chunk_at(p, m, s, first, count, buffer, thread);
        for (int64_t r = 0; r < chunk.steps; r += BLOCK_STEPS, resume = true)
            for (int64_t i = begin; i < end; i++) {
                unit_at(p, u, i, &o, &rows, &k, &n);
                (!chunk.pairs ? span_tile : native ? span_pairs_native : span_pairs_emulated)((int)rows, n, ss_min(BLOCK_STEPS, chunk.steps - r), chunk.image + step[k], chunk.place + r,
                                                                                              chunk.gradient + r * m->dest_c + o, m->dest_c, sums + o * s->columns + k, s->columns,
                                                                                              resume);
            }
    }
}

static void turned_run(const ss_conv2d *p, const conv_map *m, const conv_sums *s, int thread, int threads) {
    turned_units u = units_of(p);
    int64_t begin, end, width = s->rows * s->columns, taps = taps_of(p), o, rows, k, n;
    ss_split(u.count, 1, thread, threads, &begin, &end);
    if (begin == end) return;
    float *stack = p->scratch + s->at_stack, *buffer = thread_buffer(p, m, thread);
    int top = 0;
    for (int lane = 0; lane < p->fold->lanes; lane++) {
        turned_lane(p, m, s, &u, begin, end, lane, buffer, stack + top++ * width, thread);
        for (int adds = p->fold->adds[lane]; adds > 0; adds--, top--)
            for (int64_t i = begin; i < end; i++) {
                unit_at(p, &u, i, &o, &rows, &k, &n);
                for (int64_t r = o; r < o + rows; r++) {
                    float *restrict a = stack + (top - 2) * width + r * s->columns + k;
                    const float *restrict b = a + width;
                    for (int64_t j = 0; j < n; j++) a[j] += b[j];
                }
            }
    }
    for (int j = 0; j < top; j++)
        for (int64_t i = begin; i < end; i++) {
            unit_at(p, &u, i, &o, &rows, &k, &n);
            for (int64_t r = o; r < o + rows; r++)
                for (int64_t t = k; t < k + n; t++)
                    p->grad_weight[j * p->block_stride + (r * p->channels + t % p->channels) * taps + t / p->channels] = stack[j * width + r * s->columns + t];
        }
}

/* Depthwise. Units [begin, end) are the taps of one vector of channels after another; over the samples of one lane, into `sums`. */
static void depthwise_lane(const ss_conv2d *p, const conv_map *m, const conv_sums *s, int64_t begin, int64_t end, int lane, float *buffer, float *sums) {
    const int64_t *row = (const int64_t *)(p->scratch + m->at_row), *step = (const int64_t *)(p->scratch + m->at_step);
    bool resume = false;
    for (int64_t first = p->fold->row[lane]; first < p->fold->row[lane + 1]; first += m->samples, resume = true) {
        int64_t count = ss_min(m->samples, p->fold->row[lane + 1] - first);
        depthwise_sums block = {.a = load_samples(m, p->x + first * m->source_size, count, buffer), .row_off = row, .tap_off = step, .m = count * m->rows, .n = m->dest_c,
                                .b = p->grad_y + first * m->dest_size, .sums = sums, .sums_step = s->columns, .resume = resume};
        for (int64_t k = begin; k < end;) {
            int64_t stop = ss_min(end, (k / s->rows + 1) * s->rows);
            depthwise_sums_run(&block, k % s->rows, k % s->rows + stop - k, k / s->rows * VEC_WIDTH);
            k = stop;
        }
    }
}

static void depthwise_run(const ss_conv2d *p, const conv_map *m, const conv_sums *s, int thread, int threads) {
    int64_t begin, end, width = s->rows * s->columns;
    ss_split(width / VEC_WIDTH, 1, thread, threads, &begin, &end);
    if (begin == end) return;
    float *stack = p->scratch + s->at_stack, *buffer = thread_buffer(p, m, thread);
    int top = 0;
    for (int lane = 0; lane < p->fold->lanes; lane++) {
        depthwise_lane(p, m, s, begin, end, lane, buffer, stack + top++ * width);
        for (int adds = p->fold->adds[lane]; adds > 0; adds--, top--)
            for (int64_t k = begin; k < end; k++) {
                float *a = stack + (top - 2) * width + k % s->rows * s->columns + k / s->rows * VEC_WIDTH;
                vec_store(a, vec_add(vec_load(a), vec_load(a + width)));
            }
    }
    for (int j = 0; j < top; j++)
        for (int64_t k = begin; k < end; k++) {
            int64_t tap = k % s->rows, channel = k / s->rows * VEC_WIDTH;
            for (int64_t o = channel; o < ss_min(channel + VEC_WIDTH, m->dest_c); o++) p->grad_weight[j * p->block_stride + o * s->rows + tap] = stack[j * width + tap * s->columns + o];
        }
}

/* The backward scratch: tables of the forward pass, sums, tables of the gradient of x. */
typedef struct conv_backward {
    conv_map weight, x;
    square_layout squares; /* instead of x, where conv_winograd */
    conv_sums sums;
} conv_backward;

static conv_backward backward_layout(const ss_conv2d *p, int depth, int threads) {
    conv_backward b;
    b.weight = map_forward(p, 0, false, threads);
    int64_t end;
    if (conv_winograd(p)) {
        b.squares = square_layout_of(conv_square_grad_x(p), b.weight.end, threads);
        end = b.squares.end;
    } else {
        b.x = map_grad_x(p, b.weight.end, threads);
        end = b.x.end;
    }
    b.sums = sums_layout(p, &b.weight, end, depth, threads); /* last: only its end depends on the depth */
    return b;
}

int64_t SS_FN(conv2d_scratch)(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads) {
    if (openblas(p)) return ss_conv2d_blas_scratch(p, pass, depth, threads);
    if (pass == SS_CONV_BACKWARD) return backward_layout(p, depth, threads).sums.end;
    if (!conv_winograd(p)) return map_forward(p, 0, true, threads).end;
    return square_layout_of(conv_square_forward(p), 0, threads).end;
}

void SS_FN(conv2d_pack)(const ss_conv2d *p, ss_conv2d_pass pass, int thread, int threads) {
    if (openblas(p)) {
        ss_conv2d_blas_pack(p, pass, thread, threads);
        return;
    }
    if (pass == SS_CONV_FORWARD && conv_winograd(p)) {
        square_layout l = square_layout_of(conv_square_forward(p), 0, threads);
        square_pack(&l, p->weight, p->scratch, thread, threads);
        return;
    }
    if (pass == SS_CONV_FORWARD) {
        conv_map m = map_forward(p, 0, true, threads);
        if (thread == 0) fill_forward(p, &m);
        pack_forward(p, &m, thread, threads);
        return;
    }
    conv_backward b = backward_layout(p, p->fold->depth, threads);
    if (thread == 0 && p->grad_weight) {
        fill_forward(p, &b.weight);
        int64_t *out = (int64_t *)(p->scratch + b.sums.at_out);
        for (int64_t k = 0; k < b.sums.rows; k++) out[k] = k * b.sums.columns;
        if (paired(p)) fill_pairs(p, &b.weight, &b.sums);
    }
    if (!p->grad_x) return;
    if (conv_winograd(p)) {
        square_pack(&b.squares, p->weight, p->scratch, thread, threads);
        return;
    }
    if (thread == threads - 1) fill_grad_x(p, &b.x);
    pack_grad_x(p, &b.x, thread, threads);
}

void SS_FN(conv2d_forward)(const ss_conv2d *p, int thread, int threads) {
    if (openblas(p)) {
        ss_conv2d_blas_forward(p, thread, threads);
        return;
    }
    if (conv_winograd(p)) {
        square_layout l = square_layout_of(conv_square_forward(p), 0, threads);
        square_run(&l, p->rows, p->x, p->y, p->bias, p->scratch, thread, threads);
        return;
    }
    conv_map m = map_forward(p, 0, true, threads);
    map_run(p, &m, p->x, p->y, p->bias, thread, threads);
}

void SS_FN(conv2d_backward)(const ss_conv2d *p, int thread, int threads) {
    if (openblas(p)) {
        ss_conv2d_blas_backward(p, thread, threads);
        return;
    }
    conv_backward b = backward_layout(p, p->fold->depth, threads);
    if (p->grad_x && conv_winograd(p)) square_run(&b.squares, p->rows, p->grad_y, p->grad_x, p->x_bias, p->scratch, thread, threads);
    else if (p->grad_x) map_run(p, &b.x, p->grad_y, p->grad_x, p->x_bias, thread, threads);
    if (p->grad_weight && b.weight.depthwise) depthwise_run(p, &b.weight, &b.sums, thread, threads);
    else if (p->grad_weight && turned_sums(p)) turned_run(p, &b.weight, &b.sums, thread, threads);
    else if (p->grad_weight) weight_run(p, &b.weight, &b.sums, thread, threads);
}

#else /* without FMA every multiply-add is a call: correct and slow */

int64_t SS_FN(conv2d_scratch)(const ss_conv2d *p, ss_conv2d_pass pass, int depth, int threads) {
    return openblas(p) ? ss_conv2d_blas_scratch(p, pass, depth, threads) : 0;
}

void SS_FN(conv2d_pack)(const ss_conv2d *p, ss_conv2d_pass pass, int thread, int threads) {
    if (openblas(p)) ss_conv2d_blas_pack(p, pass, thread, threads);
}

void SS_FN(conv2d_forward)(const ss_conv2d *p, int thread, int threads) {
    if (openblas(p)) {
        ss_conv2d_blas_forward(p, thread, threads);
        return;
    }
    int64_t begin, end;
    ss_split(p->rows, 1, thread, threads, &begin, &end);
    conv_naive_forward(p, p->x, p->weight, p->bias, p->y, begin, end);
}

void SS_FN(conv2d_backward)(const ss_conv2d *p, int thread, int threads) {
    if (openblas(p)) {
        ss_conv2d_blas_backward(p, thread, threads);
        return;
    }
    int64_t begin, end;
    ss_split(p->rows, 1, thread, threads, &begin, &end);
    if (p->grad_x) conv_naive_grad_x(p, p->grad_y, p->weight, p->x_bias, p->grad_x, begin, end);
    ss_split(p->out_channels * (p->channels / p->groups) * p->kernel_d * p->kernel_h * p->kernel_w, 1, thread, threads, &begin, &end);
    if (p->grad_weight) conv_naive_grad_weight(p, p->x, p->grad_y, p->grad_weight, begin, end);
}

#endif
