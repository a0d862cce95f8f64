// open_mpi.h - the calls of Open MPI that collective.cu makes, through a library that is opened when it is needed
//
// The library is not linked. So a program that runs alone starts as fast as without it, and a binary also runs where
// Open MPI is not installed. Its handles, such as MPI_FLOAT, are addresses of variables of the library.
#pragma once
#include <dlfcn.h>
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <string>
#include <type_traits>

#include "check.h"

namespace mpi {

// Returns the library, or null where it is not installed. Open MPI's own parts look its symbols up (RTLD_GLOBAL).
inline void* library() {
    static void* const opened = dlopen("libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
    return opened;
}
template <class T>
T* find(const char* name) {
    void* const symbol = dlsym(library(), name);
    CHECK_RUN(symbol, "the MPI library has no {}; Open MPI 4 or newer is needed", name);
    return reinterpret_cast<T*>(symbol);
}
// Makes a call. When one fails, MPI itself ends the program, with a message.
#define MPI_CALL(function, ...) (mpi::find<decltype(function)>(#function)(__VA_ARGS__))

inline MPI_Comm everybody() { return find<std::remove_pointer_t<MPI_Comm>>("ompi_mpi_comm_world"); }
inline MPI_Datatype type_of(int64_t bytes) {
    using Type = std::remove_pointer_t<MPI_Datatype>;
    return bytes == 2 ? find<Type>("ompi_mpi_uint16_t") : find<Type>("ompi_mpi_float");
}

// "Open MPI 4.1.4", or "" where it is not installed.
inline std::string version() {
    if (!library()) return "";
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length                                = 0;
    MPI_CALL(MPI_Get_library_version, text, &length);
    std::string name(text);  // "Open MPI v4.1.4, package: …"
    name = name.substr(0, name.find(','));
    if (const size_t v = name.find(" v"); v != name.npos) name.erase(v + 1, 1);
    return name;
}

// Whether mpirun or Slurm has started this process for MPI. Any other would be alone in its group.
inline bool launched() { return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK"); }

// Joins the group that the launcher has made.
inline void start(int rank, int world) {
    // A process that waits offers its core to one that computes.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    int started = 0, level = 0, theirs = 0, their_world = 1;
    MPI_CALL(MPI_Initialized, &started);
    if (!started) MPI_CALL(MPI_Init_thread, nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
    MPI_CALL(MPI_Comm_rank, everybody(), &theirs);
    MPI_CALL(MPI_Comm_size, everybody(), &their_world);
    CHECK(theirs == rank && their_world == world,
          "the environment says that this process is rank {} of {}, but MPI sees rank {} of {}\n    "
          "Processes on the CPU need a launcher that tells MPI: mpirun -n {}, or under Slurm srun --mpi=pmix",
          rank, world, theirs, their_world, world);
}

}  // namespace mpi
