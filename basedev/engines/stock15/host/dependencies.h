// What results of inference depend on, beyond the edges that Julia keeps.
#pragma once

#include "image.h"

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

class Dependencies {
public:
    using Instances = std::vector<jl_method_instance_t *>;

    // Finds them for all valid results of the image, each of which is inferred once more, alone, and compared with
    // what the image has. Writes them to a file, and returns those that came out otherwise. In the newest world.
    static Instances record(const Image &image, const std::string &path);

    // As recorded for this image.
    void read(const Image &image, const std::string &path);

    // Those whose results have something of the instance's body for constant arguments in them.
    const Instances &of_constants_in(jl_method_instance_t *instance) const {
        auto found = users.find(instance);
        return found == users.end() ? none : found->second;
    }
    // How much lowered code inference reads for each of the users, in bytes: its own, and that for constant arguments.
    std::unordered_map<jl_method_instance_t *, size_t> code_read_for(const Instances &users) const;

    // Those for which inference gives something else when it is asked alone, so that nothing can be concluded from
    // what it is asked about them.
    std::unordered_set<jl_method_instance_t *> unstable;

    void add(jl_method_instance_t *instance, jl_method_instance_t *user) { users[instance].push_back(user); }

private:
    const Instances none;
    std::unordered_map<jl_method_instance_t *, Instances> users;  // of what an instance gives for constants
};
