#include "base/status.h"
#include "tests/test.h"

static ss_status fail_with(ss_status code, ss_error *err) { return SS_FAIL(err, code, "number %d of %s", 7, "nine"); }

static ss_status leave_early(ss_status inner, int *reached, ss_error *err) {
    ss_status status = SS_OK;
    if (inner != SS_OK) SS_TRY(fail_with(inner, err));
    SS_TRY(SS_OK);
    *reached = 1;
done:
    return status;
}

int main(void) {
    ss_error err = {0};
    CHECK(strcmp(ss_status_text(SS_OK), "success") == 0);
    CHECK(strcmp(ss_status_exception(SS_ERR_SHAPE), "ValueError") == 0);
    CHECK(strcmp(ss_status_exception(SS_ERR_DTYPE), "TypeError") == 0);
    CHECK(strcmp(ss_status_exception(SS_ERR_RANK_FAILED), "RankFailed") == 0);
    for (int i = 1; i < SS_STATUS_COUNT; i++) {
        CHECK(ss_status_text((ss_status)i)[0] != 0 && ss_status_exception((ss_status)i)[0] != 0);
        CHECK(fail_with((ss_status)i, &err) == (ss_status)i && err.code == (ss_status)i);
        for (int j = 0; j < i; j++) CHECK(strcmp(ss_status_text((ss_status)i), ss_status_text((ss_status)j)) != 0);
    }
    CHECK(strcmp(ss_status_text((ss_status)1000), "unknown status") == 0);
    CHECK(strcmp(ss_status_exception((ss_status)-1), "RuntimeError") == 0);

    CHECK(strcmp(err.message, "number 7 of nine") == 0);
    CHECK(strstr(err.file, "test_base_status.c") != NULL && err.line > 0);
    CHECK(fail_with(SS_ERR_VALUE, NULL) == SS_ERR_VALUE);
    ss_error_prefix(NULL, "nothing");

    int reached = 0;
    CHECK(leave_early(SS_ERR_COMM, &reached, &err) == SS_ERR_COMM && reached == 0);
    CHECK(leave_early(SS_OK, &reached, &err) == SS_OK && reached == 1);

    ss_error_prefix(&err, "layer '%s': ", "conv1");
    CHECK(strcmp(err.message, "layer 'conv1': number 7 of nine") == 0);
    /* Arguments may point into the message that is replaced. */
    CHECK(SS_FAIL(&err, SS_ERR_STATE, "again: %s", err.message) == SS_ERR_STATE);
    CHECK(strcmp(err.message, "again: layer 'conv1': number 7 of nine") == 0);
    ss_error_prefix(&err, "[%s] ", err.message);
    CHECK(strcmp(err.message, "[again: layer 'conv1': number 7 of nine] again: layer 'conv1': number 7 of nine") == 0);

    /* Long texts are cut, never inside a UTF-8 character. */
    char longer[2 * SS_ERROR_TEXT];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    SS_FAIL(&err, SS_ERR_VALUE, "%s", longer);
    CHECK(strlen(err.message) == SS_ERROR_TEXT - 1);
    ss_error_prefix(&err, "prefix ");
    CHECK(strlen(err.message) == SS_ERROR_TEXT - 1 && strncmp(err.message, "prefix xxx", 10) == 0);
    for (int shift = 0; shift < 4; shift++) {
        for (int i = 0; i + 3 < (int)sizeof longer; i += 3) memcpy(longer + i, "\xE2\x82\xAC", 3); /* the euro sign */
        longer[sizeof longer / 3 * 3 - 3] = 0;
        SS_FAIL(&err, SS_ERR_VALUE, "%.*s%s", shift, "abc", longer);
        size_t length = strlen(err.message);
        CHECK(length <= SS_ERROR_TEXT - 1 && length > SS_ERROR_TEXT - 4 && (length - (size_t)(shift < 3 ? shift : 3)) % 3 == 0);
        ss_error_prefix(&err, "%.*s", shift + 1, "abcd");
        CHECK((strlen(err.message) - (size_t)(shift < 3 ? shift : 3) - (size_t)(shift + 1)) % 3 == 0);
    }
    return TEST_DONE();
}
