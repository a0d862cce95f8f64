// full_disk.h - a disk that is full from some moment on, for a program that a test starts
#pragma once
#include "test/programs.h"

// Builds a library that lets the first $WRITES calls that change something below checkpoints/ succeed, and no later
// one. With $KILLS the process is killed in place of an error. With $OF_RANK it is so for this rank only. Returns the
// words that load it, which stand in front of a command. Where there is no C compiler it says so, and returns "".
inline std::string full_disk(const Scratch& s) {
    write_text(s / "full.c", R"(#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static int full(const char* path) {
    static long left = -1;
    const char *only = getenv("OF_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!strstr(path, "/checkpoints/") || (only && (!rank || strcmp(rank, only)))) return 0;
    if (left < 0) left = atol(getenv("WRITES"));
    if (left > 0) return left--, 0;
    if (getenv("KILLS")) kill(getpid(), SIGKILL);
    errno = ENOSPC;
    return 1;
}
ssize_t write(int file, const void* data, size_t bytes) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    if (full(path)) return -1;
    return ((ssize_t(*)(int, const void*, size_t))dlsym(RTLD_NEXT, "write"))(file, data, bytes);
}
int open(const char* path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    const int mode = va_arg(list, int);
    if ((flags & O_CREAT) && full(path)) return -1;
    return ((int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}
int mkdir(const char* path, mode_t mode) {
    return full(path) ? -1 : ((int (*)(const char*, mode_t))dlsym(RTLD_NEXT, "mkdir"))(path, mode);
}
int symlink(const char* to, const char* path) {
    return full(path) ? -1 : ((int (*)(const char*, const char*))dlsym(RTLD_NEXT, "symlink"))(to, path);
}
)");
    if (shell(s, "cc -shared -fPIC -o " + quoted(s / "full.so") + " " + quoted(s / "full.c") + " -ldl").code != 0) {
        std::fprintf(stderr, "skipped: there is no cc, which builds a full disk\n");
        return "";
    }
    return "LD_PRELOAD=" + quoted(s / "full.so") + " ASAN_OPTIONS=verify_asan_link_order=0";
}
