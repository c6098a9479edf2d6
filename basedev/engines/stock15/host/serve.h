// A warm server: a host that keeps its image as it was loaded, and forks for each client. The child is what the client
// would have started: it has the client's log, directory and surroundings, and ends with the client.
#pragma once

#include <string>

// The server's descriptors, as its starter hands them over. It shares no others with anybody.
enum { LISTENER_FILE = 0, LOG_FILE = 2, LOCK_FILE = 3 };

struct Serving {
    std::string image;   // it ends when this file, or the socket, is not the same any more
    std::string socket;  // where clients connect
    long idle;           // seconds without a client after which it ends
    long memory;         // bytes resident after a client above which it ends
};

// Leaves the process that started it, before the runtime is started. Returns the descriptor that clients come to.
int detach();

// Serves until a reason to end; the process ends then. Returns in each child that is to work for a client, with the
// descriptor of the connection.
int serve(const Serving &serving, int listener);

// Makes the process's surroundings the client's: limits as "NUMBER:SOFT:HARD ..." (-1: none), environment as
// NUL-terminated strings. Exits when it can't.
void live_like_client(int niceness, unsigned umask, const std::string &limits, const std::string &environment);
