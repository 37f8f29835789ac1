/* samestep: the C API of the core.
 *
 * A worked example: one linear layer trained for a step on one rank (tests/test_train_example.c compiles and runs it).
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
 *     status = ss_transport_self(&world, &err);                                         // or ss_transport_mpi
 *     status = ss_graph_create(&graph, &err);
 *     status = ss_graph_input(graph, "x", &features, SS_F32, &x, &err);                 // shapes of one sample
 *     status = ss_graph_input(graph, "y", &label, SS_I32, &y, &err);
 *     status = ss_graph_parameter(graph, "weight", &weight, true, &w, &err);
 *     status = ss_graph_node(graph, "linear", (int[]){x, w}, 2, NULL, 0, "fc", &out, &err);
 *     status = ss_graph_node(graph, "cross_entropy", (int[]){out, y}, 2, NULL, 0, "loss", &loss, &err);
 *     status = ss_graph_result(graph, loss, "loss", 1, &err);
 *     status = ss_model_create(graph, world, &training, &model, &err);                  // parameters start at 0
 *     status = ss_session_create(model, graph, &options, &session, &err);
 *     memcpy(ss_session_input(session, 0, 0), features_of_8_samples, ...);              // input set 0: x, then y
 *     memcpy(ss_session_input(session, 0, 1), labels_of_8_samples, ...);
 *     status = ss_session_step(session, 0, 8, true, SS_OK, result, NULL, &err);         // loss = result[0] / result[1]
 *
 *     ss_session_free(session); ss_model_free(model); ss_graph_free(graph); ss_transport_free(world);    // in this order; NULL is allowed
 *
 * Every function that can fail returns an ss_status and fills the caller's ss_error; on failure its outputs are untouched. Nothing is global, nothing is printed.
 * A model borrows its transport, a session its model and graph: they must outlive it. One thread at a time works on a model; the pool's own threads are inside.
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
