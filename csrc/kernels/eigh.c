/* Eigenvalues and eigenvectors of a symmetric matrix, in double: Householder's tridiagonal form, then QL with implicit shifts (Bowdler, Martin, Reinsch, Wilkinson: "The QR and QL algorithms
 * for symmetric matrices", 1968). One thread. Every operation is written out and no sum is reordered, so all instruction sets give the same bits, which LAPACK does not promise.
 * The loops run along rows, where they vectorise. */
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "kernels/internal.h"

enum { MOST_ROUNDS = 60 };

/* y += f * x */
static void add_row(int64_t n, double f, const double *restrict x, double *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] += f * x[i];
}

/* a becomes tridiagonal (d, e), where e[i] joins i and i + 1; q becomes the orthogonal matrix with a = q T q^T. v: n, w: n. */
static void tridiagonal(int64_t n, double *a, double *d, double *e, double *q, double *v, double *w) {
    for (int64_t k = 0; k + 2 < n; k++) { /* row k of a keeps the reflection for q */
        double *row = a + k * n, norm = 0, below = 0;
        for (int64_t i = k + 2; i < n; i++) below += row[i] * row[i];
        norm = sqrt(row[k + 1] * row[k + 1] + below);
        d[k] = row[k];
        if (below == 0) { /* nothing to do */
            e[k] = row[k + 1];
            memset(row, 0, (size_t)n * sizeof *row);
            continue;
        }
        const double first = row[k + 1], alpha = first > 0 ? -norm : norm;
        e[k] = alpha;
        row[k + 1] = first - alpha;
        const double scale = sqrt(2 / (row[k + 1] * row[k + 1] + below)); /* so that H = I - v v^T */
        memset(row, 0, (size_t)(k + 1) * sizeof *row);
        for (int64_t i = k + 1; i < n; i++) row[i] *= scale;
        memcpy(v, row, (size_t)n * sizeof *v);
        const int64_t from = k + 1, m = n - from;
        memset(w, 0, (size_t)n * sizeof *w);
        for (int64_t j = from; j < n; j++) add_row(m, v[j], a + j * n + from, w + from);
        double half = 0;
        for (int64_t i = from; i < n; i++) half += v[i] * w[i];
        add_row(m, -half / 2, v + from, w + from);
        for (int64_t j = from; j < n; j++) {
            double *restrict to = a + j * n;
            const double vj = v[j], wj = w[j];
            for (int64_t i = from; i < n; i++) to[i] -= vj * w[i] + wj * v[i];
        }
    }
    if (n > 1) {
        d[n - 2] = a[(n - 2) * n + n - 2];
        e[n - 2] = a[(n - 2) * n + n - 1];
    }
    d[n - 1] = a[n * n - 1];
    e[n - 1] = 0;
    memset(q, 0, (size_t)(n * n) * sizeof *q);
    for (int64_t i = 0; i < n; i++) q[i * n + i] = 1;
    for (int64_t k = n - 3; k >= 0; k--) { /* q = H_0 (H_1 (... I)) */
        const double *reflection = a + k * n;
        const int64_t from = k + 1, m = n - from;
        memset(w, 0, (size_t)n * sizeof *w);
        for (int64_t j = from; j < n; j++) add_row(m, reflection[j], q + j * n + from, w + from);
        for (int64_t j = from; j < n; j++) add_row(m, -reflection[j], w + from, q + j * n + from);
    }
}

static void rotate(int64_t n, double c, double s, double *restrict low, double *restrict high) {
    for (int64_t i = 0; i < n; i++) {
        double f = high[i];
        high[i] = s * low[i] + c * f;
        low[i] = c * low[i] - s * f;
    }
}

/* Rows of z are rotated along. False when it does not converge. */
static bool implicit_ql(int64_t n, double *d, double *e, double *z) {
    for (int64_t l = 0; l < n; l++) {
        for (int round = 0;; round++) {
            int64_t m = l;
            while (m + 1 < n && !(fabs(e[m]) <= 0x1p-52 * (fabs(d[m]) + fabs(d[m + 1])))) m++;
            if (m == l) break;
            if (round == MOST_ROUNDS) return false;
            double g = (d[l + 1] - d[l]) / (2 * e[l]), r = sqrt(g * g + 1);
            g = d[m] - d[l] + e[l] / (g < 0 ? g - r : g + r);
            double s = 1, c = 1, p = 0;
            int64_t i = m - 1;
            for (; i >= l; i--) {
                const double f = s * e[i], b = c * e[i];
                r = sqrt(f * f + g * g);
                e[i + 1] = r;
                if (r == 0) {
                    d[i + 1] -= p;
                    e[m] = 0;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                rotate(n, c, s, z + i * n, z + (i + 1) * n);
            }
            if (i >= l) continue;
            d[l] -= p;
            e[l] = g;
            e[m] = 0;
        }
    }
    return true;
}

void SS_FN(eigh)(int64_t n, double *a, double *values, double *vectors, double *work) {
    double *e = work, *v = work + n, *w = work + 2 * n, largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < n * n; i++) {
        finite &= isfinite(a[i]) != 0;
        largest = fabs(a[i]) > largest ? fabs(a[i]) : largest;
    }
    const double scale = largest > 0 ? largest : 1;
    for (int64_t i = 0; i < n * n && finite; i++) a[i] /= scale; /* squares may not overflow */
    if (finite && n) {
        tridiagonal(n, a, values, e, vectors, v, w);
        for (int64_t i = 0; i < n; i++) /* eigenvectors are rows from here on */
            for (int64_t j = 0; j < i; j++) {
                double swap = vectors[i * n + j];
                vectors[i * n + j] = vectors[j * n + i];
                vectors[j * n + i] = swap;
            }
        finite = implicit_ql(n, values, e, vectors);
    }
    if (!finite) {
        for (int64_t i = 0; i < n; i++) values[i] = NAN;
        for (int64_t i = 0; i < n * n; i++) vectors[i] = NAN;
        return;
    }
    for (int64_t i = 0; i < n; i++) values[i] *= scale;
    for (int64_t i = 0; i < n; i++) { /* ascending */
        int64_t least = i;
        for (int64_t j = i + 1; j < n; j++)
            if (values[j] < values[least]) least = j;
        if (least == i) continue;
        double swap = values[i];
        values[i] = values[least];
        values[least] = swap;
        memcpy(v, vectors + i * n, (size_t)n * sizeof *v);
        memcpy(vectors + i * n, vectors + least * n, (size_t)n * sizeof *v);
        memcpy(vectors + least * n, v, (size_t)n * sizeof *v);
    }
}
