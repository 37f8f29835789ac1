/* samestep: the C API of the core.
 *
 * A worked example: one linear layer trained for a step on one rank (tests/test_train_example.c compiles and runs it, and compares it with this comment).
 *
 *     ss_error err;
 *     ss_transport *world = NULL;
 *     ss_graph *graph = NULL;
 *     ss_model *model = NULL;
 *     ss_session *session = NULL;
 *     int x, y, w, out, loss;
 *     ss_shape features = {1, {4}}, label = {0}, weight = {2, {3, 4}};
 *     ss_attr lr = {"lr", 0.1};
 *     ss_model_options training = {.optimizer = "sgd", .hyper = &lr, .hypers = 1, .threads = 2, .isa = SS_ISA_SCALAR};
 *     ss_options options = {.batch = 8, .training = true, .with_results = true};
 *     double result[2];
 *
 *     SS_TRY(ss_transport_self(&world, &err));                                      // or ss_transport_mpi
 *     SS_TRY(ss_graph_create(&graph, &err));
 *     SS_TRY(ss_graph_input(graph, "x", &features, SS_F32, &x, &err));              // shapes of one sample
 *     SS_TRY(ss_graph_input(graph, "y", &label, SS_I32, &y, &err));
 *     SS_TRY(ss_graph_parameter(graph, "weight", &weight, true, &w, &err));
 *     SS_TRY(ss_graph_node(graph, "linear", (int[]){x, w}, 2, NULL, 0, "fc", &out, &err));
 *     SS_TRY(ss_graph_node(graph, "cross_entropy", (int[]){out, y}, 2, NULL, 0, "loss", &loss, &err));
 *     SS_TRY(ss_graph_result(graph, loss, "loss", 1, &err));
 *     SS_TRY(ss_model_create(graph, world, &training, &model, &err));               // parameters start at 0
 *     SS_TRY(ss_session_create(model, graph, &options, &session, &err));
 *     memcpy(ss_session_input(session, 0, 0), features_of_8_samples, 8 * 4 * sizeof(float));   // input set 0: x,
 *     memcpy(ss_session_input(session, 0, 1), labels_of_8_samples, 8 * sizeof(int32_t));       // then y
 *     SS_TRY(ss_session_step(session, 0, 8, true, SS_OK, result, NULL, &err));      // sum and denominator of the loss
 *     printf("loss %g\n", result[0] / result[1]);                                   // the mean over the batch, before the update
 * done:                                                                             // SS_TRY comes here with ss_status status when a call fails
 *     ss_session_free(session); ss_model_free(model); ss_graph_free(graph); ss_transport_free(world);    // in this order; NULL is allowed
 *
 * Every function that can fail returns an ss_status and fills the caller's ss_error; on failure its outputs are untouched. Nothing is global, nothing is printed.
 * A model borrows its transport, a session its model and graph: they must outlive it. One thread at a time works on a model; the pool's own threads are inside.
 * Treat the structures behind the pointers as opaque: their fields are there for the library itself and for its tests, and may change.
 */
#ifndef SAMESTEP_H
#define SAMESTEP_H
#include "base/cpu.h"
#include "base/shape.h"
#include "base/status.h"
#include "comm/transport.h"
#include "graph/graph.h"
#include "train/loader.h"
#include "train/model.h"
#include "train/session.h"

#endif
