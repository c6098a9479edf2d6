// Writing JSON: just enough for the host's answers.
#pragma once

#include <cstdio>
#include <string>

class Json {
public:
    std::string text;

    Json &open(char bracket) { separate(); text += bracket; fresh = true; return *this; }
    Json &close(char bracket) { text += bracket; fresh = false; return *this; }
    Json &key(const char *name) { string(name); text += ':'; fresh = true; return *this; }
    Json &raw(const std::string &value) { separate(); text += value; return *this; }
    Json &number(long long value) { return raw(std::to_string(value)); }
    Json &seconds(double value) {
        char digits[32];
        snprintf(digits, sizeof digits, "%.4f", value);
        return raw(digits);
    }
    Json &string(const std::string &value) { return string(value.data(), value.size()); }
    Json &string(const char *bytes, size_t length) {
        separate();
        text += '"';
        for (size_t i = 0; i < length; i++) {
            unsigned char c = bytes[i];
            if (c == '"' || c == '\\') {
                text += '\\';
                text += c;
            }
            else if (c < 0x20) {
                char escape[8];
                snprintf(escape, sizeof escape, "\\u%04x", c);
                text += escape;
            }
            else {
                text += c;
            }
        }
        text += '"';
        return *this;
    }

private:
    bool fresh = true;  // nothing stands before the next value in its container
    void separate() {
        if (!fresh)
            text += ',';
        fresh = false;
    }
};
