/* Fails the n-th allocation of what compression, meetings and parameter servers are made of, for n = 1, 2, ... until it succeeds: an error each time, and nothing left behind. */
#include "tests/train_nets.h"
#include "train/central.h"
#include "train/compression.h"
#include "train/meeting.h"

enum { RANKS = 3 };

static ss_status scenario(const char *compressor, int rank, ss_error *err) {
    static const char *const names[] = {"fc1.weight", "a", "b"};
    ss_transport fake = {.name = "fake", .rank = rank, .size = RANKS};
    const ss_compression_parameter parameter[] = {{"a", ss_shape_of(2, 40, 30, 0, 0), 0}, {"b", ss_shape_of(1, 7, 0, 0, 0), 1200}};
    const ss_compression_options packing = {.name = compressor, .feedback = true, .tensor = names + 1, .tensors = 2};
    const ss_compression_options pushes = {.name = strcmp(compressor, "powersgd") ? compressor : "int8", .feedback = true, .tensor = names, .tensors = 1};
    const ss_central_options servers = {.servers = 1, .staleness = 2};
    net_setting o = {.kind = NET_MLP, .threads = 1, .lanes = 8, .isa = SS_ISA_SCALAR, .batch = 16, .optimizer = "adam"};
    ss_status status = SS_OK;
    ss_compression *c = NULL;
    ss_meeting *g = NULL;
    ss_central *p = NULL;
    net_run r = {0};
    SS_TRY(net_open(&o, NULL, &r, err));
    SS_TRY(ss_compression_create(&packing, parameter, 2, 1216, r.model->kernels, &fake, &c, err));
    SS_TRY(ss_meeting_create(r.model, &fake, true, 0.7, 0.9, 0, &g, err));
    SS_TRY(ss_central_create(r.model, &fake, &servers, &pushes, &p, err));
    CHECK(ss_compression_memory(c) > 0 && ss_meeting_bytes(g) > 0 && ss_central_workers(p) == 2 && ss_central_serves(p) == (rank == 2));
done:
    ss_central_free(p);
    ss_meeting_free(g);
    ss_compression_free(c);
    net_close(&r);
    return status;
}

int main(void) {
    const uint64_t held = ss_alloc_bytes();
    for (int k = 0; k < ss_compressor_count; k++)
        for (int rank = 0; rank < RANKS; rank++) {
            int failures = 0;
            for (uint64_t n = 1; n < 10000; n++) {
                ss_error err = {0};
                ss_alloc_fail_after(n);
                ss_status status = scenario(ss_compressor_at(SS_ISA_SCALAR, k)->name, rank, &err);
                ss_alloc_fail_after(0);
                if (!CHECK(ss_alloc_bytes() == held)) fprintf(stderr, "    %d bytes leaked by failure %d\n", (int)(ss_alloc_bytes() - held), (int)n);
                if (status == SS_OK) break;
                if (!CHECK(status == SS_ERR_MEMORY && err.message[0])) fprintf(stderr, "    failure %d: %s: %s\n", (int)n, ss_status_text(status), err.message);
                failures++;
            }
            CHECK(failures > 20 && failures < 9999);
        }
    return TEST_DONE();
}
