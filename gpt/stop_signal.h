// stop_signal.h - what Ctrl-C and other signals ask of a run
#pragma once
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "gpt/folder_lock.h"

// The first Ctrl-C or SIGTERM, or a terminal or a pipe that closes, asks the loop to finish its step, save and stop.
// Evaluations and samples end at their next batch. The second signal ends the program at once. SIGUSR1 is for mpirun,
// which passes it on to all processes. On SIGTERM and Ctrl-C mpirun sends them SIGTERM, and SIGKILL one second later.
inline volatile std::sig_atomic_t stop_asked = 0;
template <bool says>  // whether this process tells what happens
void ask_to_stop(int signal) {
    if (signal == SIGPIPE && stop_asked) return;  // every line that is printed to a closed pipe raises it again
    if (stop_asked) std::_Exit(128 + signal);
    stop_asked = signal;
    constexpr char words[] =
        "\nstopping: the step or batch that runs is finished, then the run is saved. "
        "Ctrl-C again ends it at once, without saving.\n";
    if (says && write(2, words, sizeof words - 1) < 0) return;  // there is nobody to tell
}
// Until the loop begins there is nothing to save, so the first signal ends the program at once. What a new run has
// written by then is removed.
inline void end_before_first_step(int signal) {
    FolderLock::abandon();
    constexpr char words[]              = "\nended before the first step; nothing is lost\n";
    // A closed pipe means that the reader of the output has enough. Writing fails where nobody is left to tell.
    [[maybe_unused]] const auto written = signal == SIGPIPE ? 0 : write(2, words, sizeof words - 1);
    std::_Exit(128 + signal);
}
inline void end_on_signals() {
    std::signal(SIGINT, end_before_first_step);
    std::signal(SIGTERM, end_before_first_step);
    std::signal(SIGUSR1, end_before_first_step);
    std::signal(SIGPIPE, end_before_first_step);
    if (std::signal(SIGHUP, end_before_first_step) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup asked to go on
}
inline void stop_on_signals(bool says) {
    const auto handler = says ? ask_to_stop<true> : ask_to_stop<false>;
    std::signal(SIGINT, handler);
    std::signal(SIGTERM, handler);
    std::signal(SIGUSR1, handler);
    std::signal(SIGPIPE, handler);
    if (std::signal(SIGHUP, handler) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup asked to go on
}
