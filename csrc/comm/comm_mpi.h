/* The life of MPI in this process, without mpi.h. Never initialise outside a launcher: a singleton leaves a file behind in /dev/shm (the caller decides, see OMPI_COMM_WORLD_SIZE).
 *
 * MPI calls come from one thread at a time (MPI_THREAD_SERIALIZED).
 */
#ifndef SS_COMM_COMM_MPI_H
#define SS_COMM_COMM_MPI_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/transport.h"

/* MPI_Init_thread, unless somebody else (for example mpi4py) has initialised MPI already. SS_ERR_STATE after MPI_Finalize; SS_ERR_COMM when this MPI allows no threads. */
ss_status ss_mpi_init(ss_error *err);
/* MPI_Finalize if ss_mpi_init of this very process initialised it and nobody has finalised it since; otherwise nothing. */
void ss_mpi_finalize(void);
/* Ends all ranks of the job; for the launcher's hooks, never for the library. Returns only when MPI is not running. */
void ss_mpi_abort(int code);
bool ss_mpi_initialized(void);
bool ss_mpi_finalized(void);
/* Rank and size of MPI_COMM_WORLD; 0 and 1 while MPI is not running. */
void ss_mpi_world(int *rank, int *size);
/* One line about the MPI library, cut to size. Works without initialisation. */
void ss_mpi_version(char *text, int size);

/* ss_transport_mpi for communicators as other libraries hand them out: a Fortran handle (mpi4py: comm.py2f()), or the value of an MPI_Comm (mpi4py: MPI._handleof(comm)).
 * An address of an MPI_Comm (mpi4py: MPI._addressof(comm)) goes to ss_transport_mpi directly. */
ss_status ss_transport_mpi_fortran(int handle, ss_transport **out, ss_error *err);
ss_status ss_transport_mpi_value(uintptr_t comm, ss_transport **out, ss_error *err);

/* Messages above this many bytes travel in two parts (MPI counts are int); all ranks set the same. For tests; at most, and by default, 2^31 - 1. */
void ss_transport_mpi_split_above(ss_transport *t, size_t bytes);

#endif
