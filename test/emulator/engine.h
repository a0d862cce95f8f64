// engine.h - everything the API libraries need from the core
//
// The core (reader, engine, memory, checker, counters) is linked into libcudart.so.N, which exports it; libcublasLt,
// libcublas and libnccl link against our libcudart, so one process has one memory and one list of findings.
#pragma once
#include "counters.h"
#include "findings.h"
#include "launch.h"
#include "memory.h"
#include "module.h"
#include "options.h"
#include "spec.h"
