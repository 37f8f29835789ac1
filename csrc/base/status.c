#include "base/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *ss_status_text(ss_status status) {
    switch (status) {
#define SS_STATUS_CASE(code, exception, text) \
    case code: return text;
        SS_STATUS_LIST(SS_STATUS_CASE)
#undef SS_STATUS_CASE
    case SS_STATUS_COUNT: break;
    }
    return "unknown status";
}

const char *ss_status_exception(ss_status status) {
    switch (status) {
#define SS_STATUS_CASE(code, exception, text) \
    case code: return exception;
        SS_STATUS_LIST(SS_STATUS_CASE)
#undef SS_STATUS_CASE
    case SS_STATUS_COUNT: break;
    }
    return "RuntimeError";
}

/* A cut must not split a UTF-8 character: Python refuses to decode half of one. Drops an incomplete last character. */
static void drop_partial_character(char *text) {
    size_t end = strlen(text), begin = end;
    while (begin > 0 && ((unsigned char)text[begin - 1] & 0xC0) == 0x80) begin--;
    if (begin == 0) return;
    unsigned char lead = (unsigned char)text[begin - 1];
    size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (end - (begin - 1) < need) text[begin - 1] = 0;
}

/* Formats into `text`; the arguments may point into the message that is being replaced, hence never in place. */
static void format_text(char *text, const char *format, va_list arguments) {
    int length = vsnprintf(text, SS_ERROR_TEXT, format, arguments);
    if (length < 0) text[0] = 0;
    if (length >= SS_ERROR_TEXT) drop_partial_character(text);
}

ss_status ss_error_set(ss_error *err, ss_status code, const char *file, int line, const char *format, ...) {
    assert(code != SS_OK);
    if (err == NULL) return code;
    char text[SS_ERROR_TEXT];
    va_list arguments;
    va_start(arguments, format);
    format_text(text, format, arguments);
    va_end(arguments);
    err->code = code;
    err->file = file;
    err->line = line;
    strcpy(err->message, text);
    return code;
}

void ss_error_prefix(ss_error *err, const char *format, ...) {
    if (err == NULL) return;
    char text[SS_ERROR_TEXT];
    va_list arguments;
    va_start(arguments, format);
    format_text(text, format, arguments);
    va_end(arguments);
    size_t prefix = strlen(text), rest = strlen(err->message), room = SS_ERROR_TEXT - 1 - prefix;
    size_t kept = rest < room ? rest : room;
    memcpy(text + prefix, err->message, kept);
    text[prefix + kept] = 0;
    if (kept < rest) drop_partial_character(text);
    strcpy(err->message, text);
}
