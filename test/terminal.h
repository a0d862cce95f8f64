// terminal.h - runs a program on a pseudo-terminal, as a user sees it, and presses keys
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "test/programs.h"

class Terminal {
  public:
    static constexpr int patience = 60;  // seconds
    // Starts a line of the shell, whose process the line's program replaces.
    explicit Terminal(const std::string& line, int columns = 0) {
        const winsize size{24, uint16_t(columns), 0, 0};
        pid_ = forkpty(&master_, nullptr, nullptr, columns ? &size : nullptr);
        if (pid_ == 0) {
            execl("/bin/sh", "sh", "-c", ("exec " + line).c_str(), nullptr);
            _exit(127);
        }
        REQUIRE(pid_ > 0);
    }
    Terminal(const Terminal&)            = delete;
    Terminal& operator=(const Terminal&) = delete;
    ~Terminal() {
        if (pid_ > 0) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
        hang_up();
    }

    const std::string& shown() const { return shown_; }
    // Waits until the text is on the screen. Returns false when the program ends, or is silent for so many seconds.
    bool shows(const std::string& text, int seconds = patience) {
        while (shown_.find(text, seen_) == std::string::npos)
            if (!more(seconds)) return false;
        seen_ = shown_.find(text, seen_) + text.size();
        return true;
    }
    void press(char key) { REQUIRE(write(master_, &key, 1) == 1); }
    void ctrl_c() { press('\x03'); }
    void send(int signal) { kill(pid_, signal); }
    // Closes the terminal, as closing its window does.
    void hang_up() {
        if (master_ >= 0) close(master_);
        master_ = -1;
    }
    // Waits for the end of the program. Returns its exit code, or 128 and the signal that ended it.
    int end() {
        while (master_ >= 0 && more()) {}
        int status = 0;
        waitpid(pid_, &status, 0);
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

  private:
    bool more(int seconds = patience) {
        pollfd waiting = {master_, POLLIN, 0};
        char bytes[4096];
        if (poll(&waiting, 1, 1000 * seconds) <= 0) return false;
        const ssize_t n = read(master_, bytes, sizeof bytes);
        if (n > 0) shown_.append(bytes, size_t(n));
        return n > 0;
    }
    pid_t pid_  = -1;
    int master_ = -1;
    std::string shown_;
    size_t seen_ = 0;
};
