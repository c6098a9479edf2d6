// Finding something out in a child that is thrown away: it has all that the process has, and may do anything with it.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

// Runs `work` in a child and returns what it returns. Exits with a message saying `doing` if the child dies.
std::string in_child(const std::string &doing, const std::function<std::string()> &work);

// The same while `meanwhile` runs in this process.
std::string in_child(const std::string &doing, const std::function<std::string()> &work,
                     const std::function<void()> &meanwhile);

// The same for several at once.
std::vector<std::string> in_children(const std::string &doing, const std::vector<std::function<std::string()>> &works);

// Pieces of work that two processes share: one takes them from the first on, the other from the last on, until they meet.
// So neighbours are mostly done by the same process, which has compiled for the next what it needed for one.
class FromBothEnds {
public:
    explicit FromBothEnds(size_t count);
    ~FromBothEnds();
    FromBothEnds(const FromBothEnds &) = delete;
    FromBothEnds &operator=(const FromBothEnds &) = delete;
    // Calls `work` with the number of one piece after the other.
    void each(bool from_last, const std::function<void(size_t)> &work) const;

private:
    size_t count;
    std::atomic<size_t> *taken;  // in memory that the processes share
};

// Goes on in a child, while the parent waits: true in the child. False in the parent, when the child has called
// `back_to_parent`; if it ends in another way, the parent does so too.
bool go_on_in_child(const std::string &doing);
[[noreturn]] void back_to_parent();

// For a child made in another way, before it may compile anything: lets the JIT write code into its own memory.
void own_memory_after_fork();
