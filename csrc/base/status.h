/* Status codes and the error object that every fallible function of the core takes.
 *
 * A function that can fail returns ss_status and fills a caller-owned ss_error: no allocation, no globals, no printing. On failure
 * its outputs are untouched. User input gives a status; impossible states are asserts.
 */
#ifndef SS_BASE_STATUS_H
#define SS_BASE_STATUS_H

/* code, Python exception it becomes, short text */
#define SS_STATUS_LIST(X)                                                  \
    X(SS_OK, "", "success")                                                \
    X(SS_ERR_SHAPE, "ValueError", "shape")                                 \
    X(SS_ERR_VALUE, "ValueError", "value")                                 \
    X(SS_ERR_DTYPE, "TypeError", "dtype")                                  \
    X(SS_ERR_LAYOUT, "TypeError", "memory layout")                         \
    X(SS_ERR_MEMORY, "MemoryError", "out of memory")                       \
    X(SS_ERR_COMM, "CommError", "communication")                           \
    X(SS_ERR_RANK_FAILED, "RankFailed", "a rank failed")                   \
    X(SS_ERR_CHECKPOINT, "CheckpointError", "checkpoint")                  \
    X(SS_ERR_NUMERIC, "NumericError", "numeric")                           \
    X(SS_ERR_STATE, "RuntimeError", "state")                               \
    X(SS_ERR_INTERRUPT, "KeyboardInterrupt", "interrupted")

typedef enum ss_status {
#define SS_STATUS_ENUM(code, exception, text) code,
    SS_STATUS_LIST(SS_STATUS_ENUM)
#undef SS_STATUS_ENUM
    SS_STATUS_COUNT
} ss_status;

enum { SS_ERROR_TEXT = 512 };

typedef struct ss_error {
    ss_status code;
    int line;
    const char *file;
    char message[SS_ERROR_TEXT];
} ss_error;

/* Short text of a status, and the name of the Python exception it becomes. */
const char *ss_status_text(ss_status status);
const char *ss_status_exception(ss_status status);

/* Fills err (which may be NULL) and returns code. Long messages are cut. */
ss_status ss_error_set(ss_error *err, ss_status code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Puts a prefix (for example "layer 'conv1': ") before the message already there. */
void ss_error_prefix(ss_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define SS_FAIL(err, code, ...) ss_error_set((err), (code), __FILE__, __LINE__, __VA_ARGS__)

/* Leaves the function at its exit label when expr fails; needs `ss_status status` and a label `done`. */
#define SS_TRY(expr)                      \
    do {                                  \
        status = (expr);                  \
        if (status != SS_OK) goto done;   \
    } while (0)

#endif
