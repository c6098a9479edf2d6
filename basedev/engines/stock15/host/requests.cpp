#include "requests.h"

#include "image.h"

#include <cerrno>
#include <cstring>
#include <sstream>
#include <unistd.h>

Requests requests;
int answers = STDOUT_FILENO;

std::string Requests::line_alone() {
    std::string text;
    for (char byte; buffer.empty();) {
        ssize_t got = read(file, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(0);
        if (byte == '\n')
            return text;
        text += byte;
    }
    fail("a request came too early");
}

std::string Requests::line() {
    size_t end;
    while ((end = buffer.find('\n')) == std::string::npos)
        fill();
    std::string text = buffer.substr(0, end);
    buffer.erase(0, end + 1);
    return text;
}

std::string Requests::bytes(size_t length) {
    while (buffer.size() < length)
        fill();
    std::string text = buffer.substr(0, length);
    buffer.erase(0, length);
    return text;
}

void Requests::fill() {
    char chunk[1 << 16];
    ssize_t got = read(file, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR)
        return;
    if (got <= 0)
        _exit(0);  // not through the runtime's exit hooks, which would write its output
    buffer.append(chunk, (size_t)got);
}

void write_all(int file, const char *bytes, size_t length) {
    while (length) {
        ssize_t written = write(file, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            fail(std::string("cannot write: ") + strerror(errno));
        bytes += written;
        length -= (size_t)written;
    }
}

void answer(const Json &json) {
    std::string head = std::to_string(json.text.size()) + "\n";
    write_all(answers, head.data(), head.size());
    write_all(answers, json.text.data(), json.text.size());
}

static Step take_step() {
    std::istringstream words(requests.line());
    std::string verb;
    words >> verb;
    Step step;
    if (verb == "evaluate" || verb == "delete" || verb == "include") {
        step.kind = verb == "evaluate" ? Step::EVALUATE : verb == "delete" ? Step::DELETE : Step::INCLUDE;
        size_t module, file, text;
        if (step.kind == Step::EVALUATE)
            words >> step.line;
        words >> module >> file >> text;
        if (!words)
            fail("a malformed step: " + verb);
        step.module = requests.bytes(module);
        step.file = requests.bytes(file);
        step.text = requests.bytes(text);
    }
    else if (verb == "move" || verb == "unlog") {
        step.kind = verb == "move" ? Step::MOVE : Step::UNLOG;
        size_t file;
        words >> file >> step.line >> step.to;
        if (step.kind == Step::MOVE)
            words >> step.by;
        if (!words)
            fail("a malformed step: " + verb);
        step.file = requests.bytes(file);
    }
    else if (verb == "undocument" || verb == "exclude" || verb == "unbind" || verb == "unexport") {
        step.kind = verb == "undocument" ? Step::UNDOCUMENT
                    : verb == "exclude"  ? Step::EXCLUDE
                    : verb == "unbind"   ? Step::UNBIND
                                         : Step::UNEXPORT;
        size_t module, file;
        if (step.kind == Step::UNDOCUMENT)
            words >> step.line >> step.to;
        words >> module >> file;
        if (!words)
            fail("a malformed step: " + verb);
        step.module = requests.bytes(module);
        step.file = requests.bytes(file);
    }
    else {
        fail("an unknown step: " + verb);
    }
    return step;
}

std::vector<Step> take_steps(size_t count) {
    std::vector<Step> steps;
    for (size_t i = 0; i < count; i++)
        steps.push_back(take_step());
    return steps;
}

std::vector<Text> take_texts(size_t count) {
    std::vector<Text> texts;
    for (size_t i = 0; i < count; i++) {
        std::istringstream words(requests.line());
        size_t length = 0;
        Text text;
        words >> length >> text.check;
        text.text = requests.bytes(length);
        texts.push_back(std::move(text));
    }
    return texts;
}
