#define SIMDJSON_EXCEPTIONS 0
#include "shim_simdjson.h"

#include <cstring>
#include <new>
#include <simdjson.h>
#include <vector>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static_assert(CRFS_TOC_PADDING >= simdjson::SIMDJSON_PADDING, "the padding that the header promises to simdjson");

namespace {

using simdjson::error_code;
using simdjson::ondemand::json_type;
using simdjson::ondemand::object;
using simdjson::ondemand::raw_json_string;
using simdjson::ondemand::value;

const size_t outside = SIZE_MAX;
const char *const not_json = "is not valid JSON";

class Walk {
  public:
    Walk(crfs_toc_callback callback, void *context, crfs_toc_failure *failure)
        : callback(callback), context(context), failure(failure) {}

    crfs_toc_status document(simdjson::ondemand::document &document, uint64_t *version);

  private:
    crfs_toc_status entries(value list);
    crfs_toc_status entry(object fields);
    crfs_toc_status field(const char *key, value &item);
    static bool is_null(value &item);
    crfs_toc_status text(value &item, const char *name, crfs_toc_text *out);
    crfs_toc_status number(value &item, const char *name, uint32_t bit, uint64_t *out);
    crfs_toc_status xattr_map(value &item);
    crfs_toc_status fail(const char *field, const char *reason);

    crfs_toc_callback callback;
    void *context;
    crfs_toc_failure *failure;
    size_t position = outside;
    crfs_toc_entry current = {};
    std::vector<crfs_toc_xattr> xattrs;
};

// The first quote or backslash at or after `at`, a block of bytes at a time. There is one: stage 1 of simdjson refuses
// strings that are not closed; and the padding behind the JSON may be read.
const char *find_quote_or_backslash(const char *at) {
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    for (;; at += 16) {
        __m128i block = _mm_loadu_si128(reinterpret_cast<const __m128i *>(at));
        __m128i found = _mm_or_si128(_mm_cmpeq_epi8(block, quote), _mm_cmpeq_epi8(block, backslash));
        unsigned mask = unsigned(_mm_movemask_epi8(found));
        if (mask != 0)
            return at + __builtin_ctz(mask);
    }
#else
    const uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080;
    for (;; at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t quotes = word ^ ones * '"', backslashes = word ^ ones * '\\';
        // The top bit of each byte that is zero (and of some behind the first such one).
        uint64_t found = (((quotes - ones) & ~quotes) | ((backslashes - ones) & ~backslashes)) & tops;
        if (found != 0)
            return at + __builtin_ctzll(found) / 8;
    }
#endif
}

crfs_toc_status Walk::fail(const char *field, const char *reason) {
    failure->entry = position;
    failure->name = position == outside ? crfs_toc_text{nullptr, 0} : current.name;
    failure->field = field;
    failure->reason = reason;
    return CRFS_TOC_BAD;
}

// Whether the raw key (which a quote ends) is `name`. Keys written with escapes are unknown fields.
template <size_t size> bool is(const char *key, const char (&name)[size]) {
    return memcmp(key, name, size - 1) == 0 && key[size - 1] == '"';
}

bool Walk::is_null(value &item) {
    json_type type;
    return item.type().get(type) == simdjson::SUCCESS && type == json_type::null;
}

// A string without a backslash is used where it stands in the JSON; others simdjson unescapes into its own buffer.
inline crfs_toc_status Walk::text(value &item, const char *name, crfs_toc_text *out) {
    raw_json_string raw;
    if (item.get_raw_json_string().get(raw) != simdjson::SUCCESS) {
        if (!is_null(item))
            return fail(name, "is not a string");
        *out = {nullptr, 0};
        return CRFS_TOC_OK;
    }
    const char *stop = find_quote_or_backslash(raw.raw());
    if (*stop == '"') {
        *out = {raw.raw(), size_t(stop - raw.raw())};
        return CRFS_TOC_OK;
    }
    std::string_view unescaped;
    if (item.get_string().get(unescaped) != simdjson::SUCCESS)
        return fail(name, "has a wrong escape");
    *out = {unescaped.data(), unescaped.size()};
    return CRFS_TOC_OK;
}

inline crfs_toc_status Walk::number(value &item, const char *name, uint32_t bit, uint64_t *out) {
    if (item.get_uint64().get(*out) != simdjson::SUCCESS) {
        if (!is_null(item))
            return fail(name, "is not a whole number from 0 to 2^64-1");
        *out = 0;
        current.present &= ~bit;
        return CRFS_TOC_OK;
    }
    current.present |= bit;
    return CRFS_TOC_OK;
}

crfs_toc_status Walk::xattr_map(value &item) {
    xattrs.clear();
    json_type type;
    if (item.type().get(type) != simdjson::SUCCESS)
        return fail("xattrs", not_json);
    if (type == json_type::null)
        return CRFS_TOC_OK;
    object map;
    if (item.get_object().get(map) != simdjson::SUCCESS)
        return fail("xattrs", "is not an object");
    for (auto result : map) {
        simdjson::ondemand::field pair;
        std::string_view key;
        if (std::move(result).get(pair) != simdjson::SUCCESS || pair.unescaped_key().get(key) != simdjson::SUCCESS)
            return fail("xattrs", not_json);
        crfs_toc_text data;
        crfs_toc_status status = text(pair.value(), "xattrs", &data);
        if (status != CRFS_TOC_OK)
            return status;
        xattrs.push_back({{key.data(), key.size()}, data});
    }
    return CRFS_TOC_OK;
}

crfs_toc_status Walk::field(const char *key, value &item) {
    switch (*key) {
    case 'n':
        if (is(key, "name"))
            return text(item, "name", &current.name);
        break;
    case 't':
        if (is(key, "type"))
            return text(item, "type", &current.type);
        break;
    case 's':
        if (is(key, "size"))
            return number(item, "size", CRFS_TOC_HAS_SIZE, &current.size);
        break;
    case 'm':
        if (is(key, "modtime"))
            return text(item, "modtime", &current.modtime);
        if (is(key, "mode"))
            return number(item, "mode", CRFS_TOC_HAS_MODE, &current.mode);
        break;
    case 'l':
        if (is(key, "linkName"))
            return text(item, "linkName", &current.link_name);
        break;
    case 'u':
        if (is(key, "uid"))
            return number(item, "uid", CRFS_TOC_HAS_UID, &current.uid);
        break;
    case 'g':
        if (is(key, "gid"))
            return number(item, "gid", CRFS_TOC_HAS_GID, &current.gid);
        break;
    case 'o':
        if (is(key, "offset"))
            return number(item, "offset", CRFS_TOC_HAS_OFFSET, &current.offset);
        break;
    case 'e':
        if (is(key, "endOffset"))
            return number(item, "endOffset", CRFS_TOC_HAS_END_OFFSET, &current.end_offset);
        break;
    case 'd':
        if (is(key, "digest"))
            return text(item, "digest", &current.digest);
        if (is(key, "devMajor"))
            return number(item, "devMajor", CRFS_TOC_HAS_DEV_MAJOR, &current.dev_major);
        if (is(key, "devMinor"))
            return number(item, "devMinor", CRFS_TOC_HAS_DEV_MINOR, &current.dev_minor);
        break;
    case 'c':
        if (is(key, "chunkDigest"))
            return text(item, "chunkDigest", &current.chunk_digest);
        if (is(key, "chunkOffset"))
            return number(item, "chunkOffset", CRFS_TOC_HAS_CHUNK_OFFSET, &current.chunk_offset);
        if (is(key, "chunkSize"))
            return number(item, "chunkSize", CRFS_TOC_HAS_CHUNK_SIZE, &current.chunk_size);
        if (is(key, "chunkType"))
            return text(item, "chunkType", &current.chunk_type);
        break;
    case 'i':
        if (is(key, "innerOffset"))
            return number(item, "innerOffset", CRFS_TOC_HAS_INNER_OFFSET, &current.inner_offset);
        break;
    case 'x':
        if (is(key, "xattrs"))
            return xattr_map(item);
        break;
    }
    return CRFS_TOC_OK;
}

crfs_toc_status Walk::entry(object fields) {
    current = {};
    xattrs.clear();
    for (auto result : fields) {
        simdjson::ondemand::field pair;
        if (std::move(result).get(pair) != simdjson::SUCCESS)
            return fail(nullptr, not_json);
        crfs_toc_status status = field(pair.key().raw(), pair.value());
        if (status != CRFS_TOC_OK)
            return status;
    }
    current.xattrs = xattrs.empty() ? nullptr : xattrs.data();
    current.xattr_count = xattrs.size();
    return callback(context, &current) == 0 ? CRFS_TOC_OK : CRFS_TOC_STOPPED;
}

crfs_toc_status Walk::entries(value list) {
    simdjson::ondemand::array array;
    if (list.get_array().get(array) != simdjson::SUCCESS)
        return fail("entries", "is not a list");
    size_t next = 0;
    for (auto result : array) {
        position = next++;
        current.name = {nullptr, 0};
        object fields;
        error_code error = std::move(result).get_object().get(fields);
        if (error == simdjson::INCORRECT_TYPE)
            return fail(nullptr, "is not an object");
        if (error != simdjson::SUCCESS)
            return fail(nullptr, not_json);
        crfs_toc_status status = entry(fields);
        if (status != CRFS_TOC_OK)
            return status;
    }
    position = outside;
    return CRFS_TOC_OK;
}

crfs_toc_status Walk::document(simdjson::ondemand::document &document, uint64_t *version) {
    object top;
    error_code error = document.get_object().get(top);
    if (error == simdjson::INCORRECT_TYPE)
        return fail(nullptr, "is not an object");
    if (error != simdjson::SUCCESS)
        return fail(nullptr, not_json);
    bool seen = false;
    for (auto result : top) {
        simdjson::ondemand::field pair;
        if (std::move(result).get(pair) != simdjson::SUCCESS)
            return fail(nullptr, not_json);
        const char *key = pair.key().raw();
        crfs_toc_status status = CRFS_TOC_OK;
        if (is(key, "version")) {
            status = number(pair.value(), "version", 0, version);
        } else if (is(key, "entries")) {
            if (seen)
                return fail("entries", "is there twice");
            seen = true;
            json_type type;
            if (pair.value().type().get(type) != simdjson::SUCCESS)
                return fail("entries", not_json);
            if (type != json_type::null)
                status = entries(pair.value());
        }
        if (status != CRFS_TOC_OK)
            return status;
    }
    return seen ? CRFS_TOC_OK : fail("entries", "is missing");
}

// Parses the first stage of the document; false with `*status` set when that fails.
bool open_document(simdjson::ondemand::parser &parser, const char *json, size_t count, size_t capacity,
                   simdjson::ondemand::document *document, crfs_toc_status *status, const char **reason) {
    if (capacity < count || capacity - count < CRFS_TOC_PADDING) {
        *status = CRFS_TOC_BAD;
        *reason = "has no padding";
        return false;
    }
    error_code error = parser.iterate(simdjson::padded_string_view(json, count, capacity)).get(*document);
    if (error == simdjson::SUCCESS)
        return true;
    *status = error == simdjson::MEMALLOC ? CRFS_TOC_NO_MEMORY : CRFS_TOC_BAD;
    *reason = error == simdjson::UTF8_ERROR ? "is not UTF-8" : not_json;
    return false;
}

} // namespace

extern "C" enum crfs_toc_status crfs_toc_walk(const char *json, size_t count, size_t capacity,
                                              crfs_toc_callback callback, void *context, uint64_t *version,
                                              struct crfs_toc_failure *failure) {
    *version = 0;
    *failure = {outside, {nullptr, 0}, nullptr, nullptr};
    // simdjson itself throws nothing here; a vector does when memory is out.
    try {
        simdjson::ondemand::parser parser;
        simdjson::ondemand::document document;
        crfs_toc_status status;
        if (!open_document(parser, json, count, capacity, &document, &status, &failure->reason))
            return status;
        status = Walk(callback, context, failure).document(document, version);
        if (failure->name.bytes != nullptr && (failure->name.bytes < json || failure->name.bytes >= json + count)) {
            // An unescaped name stands in the parser's buffer, which ends with this function.
            failure->name = {nullptr, 0};
        }
        return status;
    } catch (...) {
        return CRFS_TOC_NO_MEMORY;
    }
}

extern "C" size_t crfs_toc_bare_walk(const char *json, size_t count, size_t capacity) {
    try {
        simdjson::ondemand::parser parser;
        simdjson::ondemand::document document;
        crfs_toc_status status;
        const char *reason;
        if (!open_document(parser, json, count, capacity, &document, &status, &reason))
            return 0;
        size_t fields = 0;
        simdjson::ondemand::array list;
        if (document["entries"].get_array().get(list) != simdjson::SUCCESS)
            return 0;
        for (auto entry : list) {
            object object;
            if (std::move(entry).get_object().get(object) != simdjson::SUCCESS)
                return 0;
            for (auto result : object) {
                simdjson::ondemand::field field;
                json_type type;
                if (std::move(result).get(field) != simdjson::SUCCESS ||
                    field.value().type().get(type) != simdjson::SUCCESS)
                    return 0;
                std::string_view text;
                uint64_t number;
                if (type == json_type::string && field.value().get_string().get(text) != simdjson::SUCCESS)
                    return 0;
                if (type == json_type::number && field.value().get_uint64().get(number) != simdjson::SUCCESS)
                    return 0;
                fields++;
            }
        }
        return fields;
    } catch (...) {
        return 0;
    }
}
