/* What the kernels share: number types, exp, and how they are compiled.

   A kernel's work falls into independent parts that OpenMP deals out to torch's own threads (the process has one libgomp,
   torch's). Sizes are int64_t, tensors are contiguous in the order that a comment names. `bf16` says whether
   activations are bfloat16 (else float32); arithmetic is float32 either way. */

#ifndef SPKVER_KERNELS_H
#define SPKVER_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Raised here and in __init__.py when a kernel is added or removed, or its arguments change, so that a module that was compiled of
   an older source is not called. */
#define VERSION 3

/* One build serves every CPU: the loader takes the widest form that the machine knows. OpenMP's loops stand outside of
   these functions, as what the compiler makes of a parallel region is not cloned. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_CPU
#endif

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Channels that are worked on together: their sums stay in registers or the nearest cache. */
#define BLOCK 64

INLINE float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float get(const void *x, int64_t i, int bf16)
{
    return bf16 ? from_bits((uint32_t)((const uint16_t *)x)[i] << 16) : ((const float *)x)[i];
}

/* To the nearest bfloat16, ties to even; a NaN stays one. */
INLINE void put(void *x, int64_t i, float value, int bf16)
{
    if (!bf16) {
        ((float *)x)[i] = value;
        return;
    }
    uint32_t bits = to_bits(value);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    ((uint16_t *)x)[i] = (uint16_t)(value == value ? rounded : bits >> 16 | 0x40);
}

INLINE const void *shifted(const void *x, int64_t n, int bf16)
{
    return (const char *)x + n * (bf16 ? 2 : 4);
}

/* exp(x) to 2 units in the last place: 2^n times a polynomial in the rest (S. Moshier's Cephes). 0 below -87. */
INLINE float fast_exp(float x)
{
    const float magic = 12582912.0f; /* adding it rounds to a whole number */
    float clipped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float shifted_n = clipped * 1.44269504088896341f + magic;
    float n = shifted_n - magic;
    float r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    float value = p * from_bits((to_bits(shifted_n) + 127) << 23);
    return x < -87.0f ? 0.0f : value;
}

#endif
