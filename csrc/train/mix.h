/* Mixup and cutmix in the data path: each sample of a batch is joined with another one of the same global batch while rows are gathered.
 *
 * Zhang, Cisse, Dauphin, Lopez-Paz: "mixup: beyond empirical risk minimization", 2018; Yun and others: "CutMix", 2019. The weight of a sample is drawn from Beta(alpha, alpha) by
 * (index in the data set, epoch), its partner stands a number of places further in the global batch that is drawn by (batch, epoch): no rank or thread changes either.
 */
#ifndef SS_TRAIN_MIX_H
#define SS_TRAIN_MIX_H
#include "train/loader.h"

typedef enum ss_mix_kind { SS_MIX_UP, SS_MIX_CUT } ss_mix_kind;
/* What happens to an array of the feed. ONE_HOT: integer labels, one a sample, become `classes` floats. */
typedef enum ss_mix_role { SS_MIX_KEEP, SS_MIX_INPUT, SS_MIX_TARGET, SS_MIX_ONE_HOT } ss_mix_role;

typedef struct ss_mix {
    ss_mix_kind kind;
    double alpha;
    uint64_t seed;
    uint32_t epoch;
    int64_t height, width;    /* of the first input, for cutmix */
    const ss_mix_role *role;  /* one per array of the feed */
    const int64_t *classes;   /* of one-hot arrays */
    float *row;               /* room for one row of the largest array */
} ss_mix;

/* The weight of sample number `index` in an epoch: Beta(alpha, alpha). */
float ss_mix_weight(const ss_mix *m, int64_t index);
/* Pixels [top, bottom) x [left, right) that cutmix takes from the partner; *weight becomes the part of the area that is left. */
void ss_mix_box(const ss_mix *m, int64_t index, float *weight, int64_t *top, int64_t *bottom, int64_t *left, int64_t *right);
/* Places between a sample and its partner in batch number `step` of `size` samples: 1 to size - 1, or 0 for a single sample. */
int64_t ss_mix_shift(const ss_mix *m, int64_t step, int64_t size);
/* Array number k of a feed for rows [begin, end) of the global batch that starts at `first` and has `size` samples. */
ss_status ss_mix_gather(const ss_mix *m, const ss_feed *feed, int k, int64_t step, int64_t first, int64_t size, int64_t begin, int64_t end, int64_t channels, float *out, ss_error *err);

#endif
