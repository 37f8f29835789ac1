/* The worked example at the top of include/samestep.h, compiled and run as it is printed there: keep the two alike. A test at the end reads the header and compares. */
#include <stdlib.h>
#include "base/alloc.h"
#include "include/samestep.h"
#include "tests/test.h"

static ss_status example(const float *features_of_8_samples, const int32_t *labels_of_8_samples, double *loss_found, float *weight_found, ss_error *failure) {
    ss_status status;
    /* example: begin */
    ss_error err;
    ss_transport *world = NULL;
    ss_graph *graph = NULL;
    ss_model *model = NULL;
    ss_session *session = NULL;
    int x, y, w, out, loss;
    ss_shape features = {1, {4}}, label = {0}, weight = {2, {3, 4}};
    ss_attr lr = {"lr", 0.1};
    ss_model_options training = {.optimizer = "sgd", .hyper = &lr, .hypers = 1, .threads = 2, .isa = SS_ISA_SCALAR};
    ss_options options = {.batch = 8, .training = true, .with_results = true};
    double result[2];

    SS_TRY(ss_transport_self(&world, &err));
    SS_TRY(ss_graph_create(&graph, &err));
    SS_TRY(ss_graph_input(graph, "x", &features, SS_F32, &x, &err));
    SS_TRY(ss_graph_input(graph, "y", &label, SS_I32, &y, &err));
    SS_TRY(ss_graph_parameter(graph, "weight", &weight, true, &w, &err));
    SS_TRY(ss_graph_node(graph, "linear", (int[]){x, w}, 2, NULL, 0, "fc", &out, &err));
    SS_TRY(ss_graph_node(graph, "cross_entropy", (int[]){out, y}, 2, NULL, 0, "loss", &loss, &err));
    SS_TRY(ss_graph_result(graph, loss, "loss", 1, &err));
    SS_TRY(ss_model_create(graph, world, &training, &model, &err));
    SS_TRY(ss_session_create(model, graph, &options, &session, &err));
    memcpy(ss_session_input(session, 0, 0), features_of_8_samples, 8 * 4 * sizeof(float));
    memcpy(ss_session_input(session, 0, 1), labels_of_8_samples, 8 * sizeof(int32_t));
    SS_TRY(ss_session_step(session, 0, 8, true, SS_OK, result, NULL, &err));
    printf("loss %g\n", result[0] / result[1]);
done:
    /* example: pause */
    if (status == SS_OK) {
        *loss_found = result[0] / result[1];
        memcpy(weight_found, model->values + model->parameter[ss_model_find(model, "weight")].offset, 12 * sizeof *weight_found);
    } else {
        *failure = err;
    }
    /* example: end */
    ss_session_free(session);
    ss_model_free(model);
    ss_graph_free(graph);
    ss_transport_free(world);
    return status;
}

/* The next line of text without indentation, the comment's star and a remark at the end; false when there is none. Empty lines are skipped. */
static bool next_line(FILE *file, char *line, size_t size) {
    while (fgets(line, (int)size, file)) {
        char *begin = line, *remark = strstr(line, "//");
        begin += strspn(begin, " ");
        if (*begin == '*') begin++;
        begin += strspn(begin, " ");
        if (remark && remark > begin) *remark = 0;
        begin[strcspn(begin, "\n")] = 0;
        for (size_t n = strlen(begin); n && begin[n - 1] == ' '; n--) begin[n - 1] = 0;
        memmove(line, begin, strlen(begin) + 1);
        if (*line) return true;
    }
    return false;
}

/* Line by line from "ss_error err;" to "done:". */
static void compare_with_header(void) {
    char here[512], there[512] = "";
    FILE *source = fopen(__FILE__, "r"), *header = fopen("include/samestep.h", "r");
    int lines = 0;
    if (!source || !header) { /* run elsewhere than in csrc: nothing to compare */
        printf("the header is not at hand: not compared\n");
    } else {
        while (next_line(source, here, sizeof here) && strcmp(here, "/* example: begin */")) {}
        while (strcmp(there, "ss_error err;") && next_line(header, there, sizeof there)) {}
        while (next_line(source, here, sizeof here) && strcmp(here, "/* example: pause */")) {
            if (!CHECK(!strcmp(here, there))) {
                fprintf(stderr, "    test:   %s\n    header: %s\n", here, there);
                break;
            }
            lines++;
            if (!next_line(header, there, sizeof there)) there[0] = 0;
        }
        CHECK(lines > 25);
    }
    if (source) fclose(source);
    if (header) fclose(header);
}

int main(void) {
    ss_error err;
    float features[8 * 4], weight[12], gradient[12] = {0};
    int32_t labels[8];
    double loss = 0;
    uint64_t held = ss_alloc_bytes();
    for (int i = 0; i < 32; i++) features[i] = (float)(i * 7 % 11) - 5;
    for (int i = 0; i < 8; i++) labels[i] = i % 3;
    if (CHECK(example(features, labels, &loss, weight, &err) == SS_OK)) {
        CHECK_NEAR(loss, log(3), 1e-6); /* all weights 0: every class is as likely */
        for (int i = 0; i < 8; i++)
            for (int c = 0; c < 3; c++)
                for (int k = 0; k < 4; k++) gradient[c * 4 + k] += (1.0f / 3 - (float)(labels[i] == c)) / 8 * features[i * 4 + k];
        for (int k = 0; k < 12; k++) CHECK_NEAR(weight[k], -0.1 * gradient[k], 1e-6);
    }
    labels[3] = 3;
    CHECK(example(features, labels, &loss, weight, &err) == SS_ERR_VALUE && strstr(err.message, "layer 'loss'"));
    CHECK(ss_alloc_bytes() == held);
    compare_with_header();
    return TEST_DONE();
}
