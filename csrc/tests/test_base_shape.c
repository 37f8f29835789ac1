#include "base/shape.h"
#include "tests/test.h"

static bool text_is(ss_shape shape, bool batched, const char *expected) {
    char text[200];
    return strcmp(ss_shape_text(&shape, batched, text, sizeof text), expected) == 0;
}

static ss_status check(ss_shape shape, ss_error *err) { return ss_shape_check(&shape, "input 'x'", err); }

int main(void) {
    ss_error err = {0};
    ss_shape image = ss_shape_of(3, 3, 32, 31, 0), other = image;
    CHECK(ss_shape_equal(&image, &other));
    other.dim[3] = 9; /* beyond the rank */
    CHECK(ss_shape_equal(&image, &other));
    other.dim[2] = 32;
    CHECK(!ss_shape_equal(&image, &other));
    other = ss_shape_of(2, 3, 32, 0, 0);
    CHECK(!ss_shape_equal(&image, &other));
    CHECK(ss_shape_count(&image) == 3 * 32 * 31);
    ss_shape scalar = ss_shape_of(0, 0, 0, 0, 0);
    CHECK(ss_shape_count(&scalar) == 1);

    CHECK(text_is(image, false, "(3, 32, 31)"));
    CHECK(text_is(image, true, "(B, 3, 32, 31)"));
    CHECK(text_is(scalar, false, "()"));
    CHECK(text_is(scalar, true, "(B,)"));
    CHECK(text_is(ss_shape_of(1, 5, 0, 0, 0), false, "(5,)"));
    CHECK(text_is(ss_shape_of(1, 5, 0, 0, 0), true, "(B, 5)"));
    char cut[5] = "####";
    CHECK(strcmp(ss_shape_text(&image, false, cut, sizeof cut), "(3, ") == 0);
    CHECK(ss_shape_text(&image, false, cut, 0) == cut && strcmp(cut, "(3, ") == 0);
    ss_shape widest = {.rank = SS_MAX_RANK};
    for (int i = 0; i < SS_MAX_RANK; i++) widest.dim[i] = INT64_MIN;
    char text[200];
    CHECK(strlen(ss_shape_text(&widest, true, text, sizeof text)) == 3 + 6 * 22);

    CHECK(check(image, &err) == SS_OK);
    CHECK(check(scalar, &err) == SS_OK);
    CHECK(check(ss_shape_of(2, (int64_t)1 << 20, (int64_t)1 << 20, 0, 0), &err) == SS_OK);
    CHECK(check(ss_shape_of(2, (int64_t)1 << 20, ((int64_t)1 << 20) + 1, 0, 0), &err) == SS_ERR_SHAPE);
    CHECK(strstr(err.message, "input 'x'") && strstr(err.message, "2^40"));
    CHECK(check(ss_shape_of(4, INT64_MAX, INT64_MAX, INT64_MAX, 4), &err) == SS_ERR_SHAPE);
    CHECK(check(ss_shape_of(3, 3, 0, 2, 0), &err) == SS_ERR_SHAPE);
    CHECK(strcmp(err.message, "input 'x': shape (3, 0, 2) has an extent below 1 on axis 1") == 0);
    CHECK(check(ss_shape_of(3, 3, -1, 2, 0), &err) == SS_ERR_SHAPE);
    CHECK(check((ss_shape){.rank = SS_MAX_RANK + 1}, &err) == SS_ERR_SHAPE && strstr(err.message, "7 axes"));
    CHECK(check((ss_shape){.rank = -1}, NULL) == SS_ERR_SHAPE);

    int64_t result = 77;
    CHECK(ss_mul(1 << 20, 1 << 20, &result) && result == (int64_t)1 << 40);
    CHECK(ss_mul(0, INT64_MAX, &result) && result == 0);
    CHECK(ss_add(INT64_MAX - 5, 5, &result) && result == INT64_MAX);
    result = 77;
    CHECK(!ss_mul((int64_t)1 << 32, (int64_t)1 << 31, &result));
    CHECK(!ss_mul(-1, -1, &result) && !ss_mul(2, -1, &result) && !ss_mul(-1, 0, &result));
    CHECK(!ss_add(INT64_MAX, 1, &result) && !ss_add(-1, 2, &result) && !ss_add(2, -1, &result));
    CHECK(result == 77);

    CHECK(ss_round_up(0, 16) == 0 && ss_round_up(1, 16) == 16 && ss_round_up(16, 16) == 16 && ss_round_up(17, 16) == 32);
    CHECK(ss_min(-2, 3) == -2 && ss_max(-2, 3) == 3);

    /* Parts cover the whole once, in order, on grains, balanced within one grain. */
    for (int64_t count = 0; count < 70; count++)
        for (int64_t grain = 1; grain < 18; grain += 5)
            for (int parts = 1; parts < 9; parts++) {
                int64_t at = 0, least = INT64_MAX, most = 0, units = (count + grain - 1) / grain;
                for (int i = 0; i < parts; i++) {
                    int64_t begin, end;
                    ss_split(count, grain, i, parts, &begin, &end);
                    CHECK(begin == at && end >= begin && (end % grain == 0 || end == count));
                    int64_t size = (end - begin + grain - 1) / grain;
                    least = ss_min(least, size), most = ss_max(most, size);
                    at = end;
                }
                CHECK(at == count && most - least <= 1 && most <= units);
            }
    return TEST_DONE();
}
