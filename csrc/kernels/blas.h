/* OpenBLAS as the core uses it. Only files in kernels/ include this.
 *
 * The wheel's library exports its names with the prefix scipy_, a system library without; the build defines SS_BLAS_SCIPY for the first. The
 * few prototypes are written out here, because a wheel or a distribution may leave the header out. Integers are 32 bits wide (LP64).
 */
#ifndef SS_KERNELS_BLAS_H
#define SS_KERNELS_BLAS_H

/* SS_CBLAS(sgemm), SS_OPENBLAS(set_num_threads) */
#ifdef SS_BLAS_SCIPY
#define SS_CBLAS(name) scipy_cblas_##name
#define SS_OPENBLAS(name) scipy_openblas_##name
#else
#define SS_CBLAS(name) cblas_##name
#define SS_OPENBLAS(name) openblas_##name
#endif

/* The values that the CBLAS standard fixes. */
enum { SS_CBLAS_ROW_MAJOR = 101, SS_CBLAS_COL_MAJOR = 102, SS_CBLAS_NO_TRANS = 111, SS_CBLAS_TRANS = 112 };

/* C (m x n) = alpha op(A) (m x k) op(B) (k x n) + beta C */
void SS_CBLAS(sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                     float beta, float *c, int ldc);
/* y = alpha op(A) x + beta y, A is m x n before op */
void SS_CBLAS(sgemv)(int order, int trans, int m, int n, float alpha, const float *a, int lda, const float *x, int incx, float beta, float *y,
                     int incy);

/* Extensions of OpenBLAS. Weak: another BLAS lacks them, and is then used with whatever threads it has. */
void SS_OPENBLAS(set_num_threads)(int threads) __attribute__((weak));
int SS_OPENBLAS(get_num_threads)(void) __attribute__((weak));
char *SS_OPENBLAS(get_config)(void) __attribute__((weak));
char *SS_OPENBLAS(get_corename)(void) __attribute__((weak));

/* The pool's threads call BLAS side by side, so each call must run on the thread that makes it. Call once before the first. */
static inline void ss_blas_one_thread(void) {
    if (SS_OPENBLAS(set_num_threads)) SS_OPENBLAS(set_num_threads)(1);
}

/* "OpenBLAS 0.3.34 ... SkylakeX", or "" when the library does not say. */
static inline const char *ss_blas_config(void) { return SS_OPENBLAS(get_config) ? SS_OPENBLAS(get_config)() : ""; }

#endif
