#include "kernels/blas.h"
#include "kernels/kernels.h"

const char *ss_blas_description(void) { return ss_blas_config(); }
