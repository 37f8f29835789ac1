/* normalize: y = x / max(norm of x, eps) along one axis, as torch.nn.functional.normalize. */
#include "kernels/rowreduce.h"
#include "kernels/variant.h"
#include "kernels/vmath.h"
#include "ops/op.h"
#include "ops/softmax.h"

enum { AXIS, P, EPS }; /* softmax.h expects the axis first */
enum { STRIP = SOFTMAX_STRIP };
typedef enum kind { ONE, TWO, GREATEST, OTHER } kind;

static const ss_attr_spec attrs[] = {
    {"axis", SS_ATTR_INT, -1, -SS_MAX_RANK, SS_MAX_RANK - 1, "axis whose norm becomes 1, counted after the batch axis; negative: from the end"},
    {"p", SS_ATTR_FLOAT, 2, 0x1p-10, (double)INFINITY, "exponent of the norm; infinite: the greatest absolute value"},
    {"eps", SS_ATTR_FLOAT, 1e-12, 0, 1e30, "least denominator"},
    {0},
};

static ss_status infer(ss_infer *q, ss_error *err) { return softmax_infer(q, "normalize", err); }

static kind kind_of(const ss_call *c) { return c->attr[P] == 1 ? ONE : c->attr[P] == 2 ? TWO : isinf(c->attr[P]) ? GREATEST : OTHER; }

/* Sign and payload of a NaN depend on the instructions that made it; saved bytes must not. */
static real one_nan(real x) { return x == x ? x : (real)NAN; }

/* |x|^p = exp(p log |x|); 0 at 0. */
static inline real power(real x, real p) { return exp_r(p * log_r(fabs(x))); }
static inline real root(real sum, kind how, real p) { return how == TWO ? (real)sqrt(sum) : how == OTHER ? exp_r(log_r(sum) / p) : sum; }

/* Sum of |x|^p, or the greatest |x|; `term` has room for n elements. */
static real row_norm(int64_t n, const real *restrict x, kind how, real p, real *restrict term) {
    if (how == TWO) return root(row_dot(n, x, x), how, p);
    if (how == OTHER)
        for (int64_t i = 0; i < n; i++) term[i] = power(x[i], p);
    else
        for (int64_t i = 0; i < n; i++) term[i] = fabs(x[i]);
    return root(how == GREATEST ? row_max(n, term) : row_sum(n, term), how, p);
}

static void strip_norm(int64_t n, int64_t stride, int64_t width, const real *restrict x, kind how, real p, real *restrict norm) {
    for (int64_t j = 0; j < width; j++) norm[j] = 0;
    for (int64_t i = 0; i < n; i++) {
        const real *restrict from = x + i * stride;
        if (how == ONE)
            for (int64_t j = 0; j < width; j++) norm[j] += fabs(from[j]);
        else if (how == TWO)
            for (int64_t j = 0; j < width; j++) norm[j] = fma_r(from[j], from[j], norm[j]);
        else if (how == GREATEST)
            for (int64_t j = 0; j < width; j++) norm[j] = max_r(norm[j], fabs(from[j]));
        else
            for (int64_t j = 0; j < width; j++) norm[j] += power(from[j], p);
    }
    for (int64_t j = 0; j < width; j++) norm[j] = root(norm[j], how, p);
}

/* `saved` keeps the norm of each row: the unit at element `at` has its first norm there. */
static real *saved_of(const ss_call *c, const softmax_size *z, int64_t at) { return (real *)c->saved + at / (z->n * z->inner) * z->inner + at % z->inner; }

static void forward(const ss_call *c) {
    const softmax_size z = softmax_size_of(c);
    const kind how = kind_of(c);
    const real p = (real)c->attr[P], eps = (real)c->attr[EPS];
    int64_t begin, end, width;
    softmax_my_units(c, &z, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const int64_t at = softmax_unit(&z, u, &width);
        const real *x = (const real *)c->in[0] + at;
        real *y = (real *)c->out[0] + at, norm[STRIP];
        if (z.inner == 1) norm[0] = row_norm(z.n, x, how, p, y);
        else strip_norm(z.n, z.inner, width, x, how, p, norm);
        for (int64_t j = 0; j < width; j++) {
            if (c->saved) saved_of(c, &z, at)[j] = one_nan(norm[j]);
            norm[j] = max_r(norm[j], eps);
        }
        if (z.inner == 1)
            for (int64_t i = 0; i < z.n; i++) y[i] = x[i] / norm[0];
        else
            for (int64_t i = 0; i < z.n; i++)
                for (int64_t j = 0; j < width; j++) y[i * z.inner + j] = x[i * z.inner + j] / norm[j];
    }
}

/* What an element adds to the gradient of the norm. */
static inline real slope(real x, kind how, real p, real norm, real share) {
    if (how == TWO) return x / norm;
    real sign = if_r(x > 0, 1, if_r(x < 0, -1, 0));
    if (how == ONE) return sign;
    if (how == GREATEST) return if_r(fabs(x) == norm, sign * share, 0);
    return if_r(x == 0, 0, sign * exp_r((p - 1) * (log_r(fabs(x)) - log_r(norm))));
}

/* grad_x = g / d - (sum of g x) / d^2 * d norm / d x, without the second term where the denominator d is eps. */
static void backward(const ss_call *c) {
    const softmax_size z = softmax_size_of(c);
    const kind how = kind_of(c);
    const real p = (real)c->attr[P], eps = (real)c->attr[EPS];
    int64_t begin, end, width;
    softmax_my_units(c, &z, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        const int64_t at = softmax_unit(&z, u, &width);
        const real *x = (const real *)c->in[0] + at, *g = (const real *)c->grad_out[0] + at, *norm = saved_of(c, &z, at);
        real *to = (real *)c->grad_in[0] + at, sum[STRIP] = {0}, down[STRIP], share[STRIP] = {0};
        if (z.inner == 1) sum[0] = row_dot(z.n, g, x);
        else
            for (int64_t i = 0; i < z.n; i++)
                for (int64_t j = 0; j < width; j++) sum[j] = fma_r(g[i * z.inner + j], x[i * z.inner + j], sum[j]);
        if (how == GREATEST)
            for (int64_t i = 0; i < z.n; i++)
                for (int64_t j = 0; j < width; j++) share[j] += (real)(fabs(x[i * z.inner + j]) == norm[j]);
        for (int64_t j = 0; j < width; j++) {
            down[j] = max_r(norm[j], eps);
            sum[j] = norm[j] < eps ? 0 : -(sum[j] / (down[j] * down[j]));
            share[j] = 1 / share[j];
        }
        if (z.inner == 1 && sum[0] == 0)
            for (int64_t i = 0; i < z.n; i++) to[i] = g[i] / down[0];
        else if (z.inner == 1 && how == TWO)
            for (int64_t i = 0; i < z.n; i++) to[i] = fma_r(sum[0], x[i] / norm[0], g[i] / down[0]);
        else
            for (int64_t i = 0; i < z.n; i++)
                for (int64_t j = 0; j < width; j++) {
                    const int64_t k = i * z.inner + j;
                    to[k] = sum[j] == 0 ? g[k] / down[j] : fma_r(sum[j], slope(x[k], how, p, norm[j], share[j]), g[k] / down[j]);
                }
    }
}

static int64_t saved_bytes(const ss_call *c) {
    const softmax_size z = softmax_size_of(c);
    return z.outer * z.inner * (int64_t)sizeof(real);
}

static void cost(const ss_call *c, bool both, ss_cost *out) {
    double n = (double)ss_shape_count(&c->in_shape[0]);
    out->flops = n * (both ? 9 : 3);
    out->bytes = n * sizeof(real) * (both ? 5 : 2);
}

static const ss_op_case cases[] = {
    {.inputs = "B:10"},
    {.inputs = "B:3,37"},
    {.attrs = "axis=0", .inputs = "B:5,70"},
    {.attrs = "axis=1", .inputs = "B:2,17,3"},
    {.attrs = "p=1", .inputs = "B:37"},
    {.attrs = "p=1 axis=0", .inputs = "B:5,3"},
    {.attrs = "p=inf", .inputs = "B:37"},
    {.attrs = "p=inf axis=0", .inputs = "B:5,3"},
    {.attrs = "p=3", .inputs = "B:37"},
    {.attrs = "p=1.5 axis=0", .inputs = "B:5,3"},
    {.attrs = "eps=100", .inputs = "B:9"},
    {.inputs = "B:4,33", .inference = true},
    {.attrs = "axis=2", .inputs = "B:4,16", .expect = SS_ERR_SHAPE},
    {.attrs = "p=0", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.attrs = "eps=-1", .inputs = "B:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:", .expect = SS_ERR_SHAPE},
    {.inputs = "P:4", .expect = SS_ERR_VALUE},
    {.inputs = "B:4 B:4", .expect = SS_ERR_SHAPE},
    {.inputs = "I5:4", .expect = SS_ERR_DTYPE},
    {0},
};

const ss_op SS_FN(ss_op_normalize) = {
    .name = "normalize",
    .doc = "`y = x / max(norm, eps)` with the norm `(sum |x|^p)^(1/p)` along `axis`, or the greatest `|x|`; any shape with that axis. The sum takes 16 interleaved accumulators and a tree over them where "
           "the axis is contiguous (all later axes have one element), otherwise it goes in order. Where the norm is below `eps` it is a constant to the gradient. With p infinite, elements of equal "
           "greatest size share the gradient.",
    .flags = SS_OP_NEEDS_IN,
    .attrs = attrs,
    .infer = infer,
    .forward = forward,
    .backward = backward,
    .saved_bytes = saved_bytes,
    .cost = cost,
    .cases = cases,
};
