// options.h - the options of scripts/emulate, read once from EMU_* in the environment
#pragma once
#include <cstdint>
#include <string>

namespace emu {

enum class Check { Off, Memory, All };
enum class Schedule { Barrier, RoundRobin, Reverse, Random };
enum class Streams { Eager, Late, Random };

struct Options {
    std::string gpu       = "h100";             // EMU_GPU
    int sms               = 0;                  // EMU_SMS       0: those of the GPU
    int devices           = 1;                  // EMU_DEVICES   0 is a machine without one
    int driver            = -1;                 // EMU_DRIVER    12040 for 12.4; 0: none; -1: as new as the runtime
    Check check           = Check::Memory;      // EMU_CHECK     off | memory | all
    Schedule schedule     = Schedule::Barrier;  // EMU_SCHEDULE  barrier | rr:N | reverse | random:SEED
    uint64_t schedule_arg = 0;                  //               N or SEED
    Streams streams       = Streams::Eager;     // EMU_STREAMS eager | late | random:SEED
    uint64_t streams_seed = 0;
    int threads           = 1;  // EMU_THREADS   host threads that share the blocks of a launch
    std::string profile;        // EMU_PROFILE   JSON file; empty: nothing is counted
    bool trace      = false;    // EMU_TRACE     print API calls
    double timeout  = 0;        // EMU_TIMEOUT   seconds for one launch; 0: 600
    bool keep_going = false;    // EMU_KEEP_GOING
    bool coverage   = false;    // EMU_COVERAGE  list the instruction forms of every module loaded, then exit
};

// The options are read on first use. An invalid value ends the program with a message that lists the valid ones.
const Options& options();

double now();       // seconds of a monotonic clock
double patience();  // seconds until a launch or a wait fails: --timeout or its default

}  // namespace emu
