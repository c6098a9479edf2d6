// The host's side of its conversation with basedev, whose requests and answers main.cpp lists.
#pragma once

#include "json.h"

#include <string>
#include <vector>

// Read with nothing but read(2): the runtime makes its own standard input non-blocking.
class Requests {
public:
    int file = -1;

    // The next line, and nothing behind it: for a process that reads on in the place of another.
    std::string line_alone();
    // The next line without its end. Ends the process when there is none: basedev is gone or done.
    std::string line();
    std::string bytes(size_t length);

private:
    std::string buffer;
    void fill();
};

extern Requests requests;
extern int answers;  // the descriptor to which they are written

void answer(const Json &json);
void write_all(int file, const char *bytes, size_t length);

struct Step {
    enum Kind { EVALUATE, DELETE, MOVE, UNDOCUMENT, UNLOG, INCLUDE, EXCLUDE, UNBIND, UNEXPORT } kind;
    long line = 0, to = 0, by = 0;
    std::string module, file, text;
    // DELETE: `text` is the signature, `file` the name; UNBIND, UNEXPORT: the name; INCLUDE: `text` is the file before
};

std::vector<Step> take_steps(size_t count);

struct Text {
    std::string text;
    bool check;
};

std::vector<Text> take_texts(size_t count);
