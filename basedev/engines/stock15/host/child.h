// Finding something out in a child that is thrown away: it has all that the process has, and may do anything with it.
#pragma once

#include <functional>
#include <string>

// Runs `work` in a child and returns what it returns. Exits with a message saying `doing` if the child dies.
std::string in_child(const std::string &doing, const std::function<std::string()> &work);
