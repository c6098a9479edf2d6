// Calls of functions in this process, noticed where they begin: the runtime calls its own functions directly, so
// they can't be interposed.
#pragma once

#include <cstdint>
#include <functional>

// The arguments of a call as the x86-64 calling convention passes them.
struct Arguments {
    void *values[6];
};

// What becomes of a call that was noticed: it goes on, or returns at once without having done anything.
enum Continuation { GO_ON, RETURN_AT_ONCE };

// From now on `reached` is called when execution comes to the function at `address`, each time or the first time
// only. For a process with a single thread: a child made by fork.
void set_breakpoint(void *address, bool once, std::function<Continuation(const Arguments &)> reached);

// The address of a function that libjulia exports. Exits when this one has none of the name.
void *runtime_function(const char *name);

// Sets a breakpoint again that was for the first time only.
void set_breakpoint_again(void *address);
