// How long the steps of a request take.
#pragma once

#include "json.h"

#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

inline double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

// Seconds by step, in order.
class Timings {
public:
    void begin() { last = now(); }
    void lap(const char *step) {
        double time = now(), took = time - last;
        last = time;
        for (auto &known : steps)
            if (!strcmp(known.first, step)) {
                known.second += took;
                return;
            }
        steps.push_back({step, took});
    }
    void write(Json &json) const {
        json.open('{');
        for (auto &step : steps)
            json.key(step.first).seconds(step.second);
        json.close('}');
    }

private:
    double last = now();
    std::vector<std::pair<const char *, double>> steps;
};
