// engine.h - everything the API libraries need from the core
//
// The core (reader, engine, memory, checker, counters) is a part of the emulator's libcudart, which exports it. The
// other libraries link against this libcudart, so a process has one memory and one list of findings.
#pragma once
#include "counters.h"
#include "findings.h"
#include "launch.h"
#include "memory.h"
#include "module.h"
#include "options.h"
#include "spec.h"
