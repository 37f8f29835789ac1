/* The openblas backend: one sgemm a lane, never merged or cut, because OpenBLAS's sums depend on the number of rows and on where a row stands.
 * Its bits depend on the CPU type; for one CPU type they do not depend on threads or ranks. */
#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include "base/shape.h"
#include "kernels/blas.h"
#include "kernels/internal.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void one_thread(void) { ss_blas_one_thread(); }

/* A row-major operand for BLAS: one of its strides is 1. With extents of 1 any leading dimension that is large enough will do. */
typedef struct operand {
    int trans, lead;
} operand;

static operand operand_of(int64_t rows, int64_t columns, int64_t row, int64_t column) {
    if (column == 1 || columns == 1) return (operand){SS_CBLAS_NO_TRANS, (int)ss_max(row, columns)};
    assert(row == 1 || rows == 1);
    return (operand){SS_CBLAS_TRANS, (int)ss_max(column, rows)};
}

/* Both strides of A or of B differ from 1: no BLAS call takes that. */
static bool strided(const ss_matmul *p) {
    return (p->a_row != 1 && p->a_col != 1) || (p->b_row != 1 && p->b_col != 1);
}

void SS_FN(matmul_run_openblas)(const ss_matmul *p, int thread, int threads) {
    if (p->k == 0 || p->n == 0 || strided(p)) {
        ss_matmul native = *p;
        native.backend = SS_BACKEND_NATIVE;
        SS_FN(matmul_run)(&native, thread, threads);
        return;
    }
    pthread_once(&once, one_thread);
    int64_t first, past;
    ss_split(p->fold->lanes, 1, thread, threads, &first, &past);
    for (int64_t lane = first; lane < past; lane++) {
        int64_t row = p->fold->row[lane] * p->positions, m = p->fold->row[lane + 1] * p->positions - row;
        operand a = operand_of(m, p->k, p->a_row, p->a_col), b = operand_of(p->k, p->n, p->b_row, p->b_col);
        float *c = p->c + row * p->c_row;
        SS_CBLAS(sgemm)(SS_CBLAS_ROW_MAJOR, a.trans, b.trans, (int)m, (int)p->n, (int)p->k, 1.0f, p->a + row * p->a_row, a.lead, p->b, b.lead,
                        0.0f, c, (int)ss_max(p->c_row, p->n));
        if (p->bias)
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < p->n; j++) c[i * p->c_row + j] += p->bias[j];
    }
}

/* Threads share the sum over lanes by pieces of the output. The pieces follow from the shape alone, so the calls and their bits are the same for
 * any number of threads. */
enum { PIECE = 256 };

int64_t SS_FN(matmul_fold_scratch_openblas)(const ss_matmul_fold *p, int depth, int threads) {
    (void)threads;
    return (int64_t)depth * p->m * p->n;
}

/* One piece: rows [i, i + m) and columns [j, j + n) of the output. Level l of the stack lies in block l of the output while there is one. */
static void fold_piece(const ss_matmul_fold *p, int64_t i, int64_t m, int64_t j, int64_t n, float *scratch) {
    const ss_fold *f = p->fold;
    int height = 0;
    for (int lane = 0; lane < f->lanes; lane++) {
        int64_t row = f->row[lane] * p->positions, rows = f->row[lane + 1] * p->positions - row;
        float *to = height < f->blocks ? p->c + height * p->block_stride + i * p->c_row + j : scratch + (height - f->blocks) * m * n;
        int64_t to_row = height < f->blocks ? p->c_row : n;
        SS_CBLAS(sgemm)(SS_CBLAS_ROW_MAJOR, SS_CBLAS_TRANS, SS_CBLAS_NO_TRANS, (int)m, (int)n, (int)rows, 1.0f, p->a + row * p->a_row + i,
                        (int)ss_max(p->a_row, m), p->b + row * p->b_row + j, (int)ss_max(p->b_row, n), 0.0f, to, (int)ss_max(to_row, n));
        for (int join = 0; join < f->adds[lane]; join++) {
            const float *upper = to;
            int64_t upper_row = to_row;
            height--;
            to = height < f->blocks ? p->c + height * p->block_stride + i * p->c_row + j : scratch + (height - f->blocks) * m * n;
            to_row = height < f->blocks ? p->c_row : n;
            for (int64_t r = 0; r < m; r++)
                for (int64_t q = 0; q < n; q++) to[r * to_row + q] += upper[r * upper_row + q];
        }
        height++;
    }
}

void SS_FN(matmul_fold_openblas)(const ss_matmul_fold *p, int thread, int threads) {
    pthread_once(&once, one_thread);
    bool down = p->m > p->n;
    int64_t first, past, length = down ? p->m : p->n, stack = ss_max(p->fold->depth - p->fold->blocks, 0);
    ss_split(length, PIECE, thread, threads, &first, &past);
    for (int64_t at = first; at < past; at += PIECE) {
        int64_t part = ss_min(PIECE, past - at);
        if (down) fold_piece(p, at, part, 0, p->n, p->scratch + stack * at * p->n);
        else fold_piece(p, 0, p->m, at, part, p->scratch + stack * at * p->m);
    }
}
