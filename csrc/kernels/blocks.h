/* Sums over all elements of a parameter: blocks of SS_BLOCK elements, each summed by the kernels' dot, and over the blocks a binary tree that is cut like the tree over lanes. The order
 * follows from the number of elements alone; threads share the blocks. */
#ifndef SS_KERNELS_BLOCKS_H
#define SS_KERNELS_BLOCKS_H
#include <stdint.h>

enum { SS_BLOCK = 4096 };

static inline int64_t ss_blocks(int64_t count) { return (count + SS_BLOCK - 1) / SS_BLOCK; }

/* The sum of n numbers in the tree T(l, h) = T(l, m) + T(m, h), m = l + the largest power of two below h - l. As deep as log2(n). */
static inline double ss_tree_sum(const double *x, int64_t n) {
    if (n == 0) return 0;
    if (n == 1) return x[0];
    int64_t half = 1;
    while (half * 2 < n) half *= 2;
    return ss_tree_sum(x, half) + ss_tree_sum(x + half, n - half);
}

#endif
