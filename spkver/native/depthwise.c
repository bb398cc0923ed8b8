/* Depthwise convolution over time: x (batch, n_steps, channels) -> the same shape, each channel by a kernel of its own.

   `taps` is (kernel, channels), so that neighbouring channels lie side by side everywhere. */

#include "kernels.h"

/* Steps that share the taps they load. */
#define STEPS 4

/* `width` channels of x as float32 in `line`, of n_steps + kernel + STEPS rows of BLOCK channels: x[t] stands in row
   t + (kernel - 1) / 2, zeros around it. */
INLINE void lay_out(const void *x, float *line, int64_t n_steps, int64_t channels, int64_t kernel, int64_t first,
                    int64_t width, int bf16)
{
    int64_t before = (kernel - 1) / 2;
    memset(line, 0, (n_steps + kernel + STEPS) * BLOCK * sizeof(float));
    for (int64_t t = 0; t < n_steps; t++)
        for (int64_t c = 0; c < width; c++)
            line[(t + before) * BLOCK + c] = get(x, t * channels + first + c, bf16);
}

/* out[t] = bias + sum over k of taps[k] * x[t + k - (kernel - 1) / 2], zeros beyond the ends. */
INLINE void item_convolve(const void *x, void *out, const float *taps, const float *bias, float *line, int64_t n_steps,
                          int64_t channels, int64_t kernel, int64_t first, int64_t width, int bf16)
{
    lay_out(x, line, n_steps, channels, kernel, first, width, bf16);
    for (int64_t t = 0; t < n_steps; t += STEPS) {
        float sum[STEPS][BLOCK] = {{0}};
        for (int64_t k = 0; k < kernel; k++) {
            float tap[BLOCK] = {0};
            memcpy(tap, taps + k * channels + first, width * sizeof(float));
            for (int64_t s = 0; s < STEPS; s++)
                for (int64_t c = 0; c < BLOCK; c++)
                    sum[s][c] += tap[c] * line[(t + s + k) * BLOCK + c];
        }
        for (int64_t s = 0; s < STEPS && t + s < n_steps; s++)
            for (int64_t c = 0; c < width; c++)
                put(out, (t + s) * channels + first + c, sum[s][c] + (bias ? bias[first + c] : 0.0f), bf16);
    }
}

/* Adds an item's part to the gradient of the taps, (kernel, BLOCK). */
INLINE void item_taps(const void *x, const void *slopes, float *gradient, float *line, int64_t n_steps,
                      int64_t channels, int64_t kernel, int64_t first, int64_t width, int bf16)
{
    lay_out(x, line, n_steps, channels, kernel, first, width, bf16);
    for (int64_t t = 0; t < n_steps; t++) {
        float slope[BLOCK] = {0};
        for (int64_t c = 0; c < width; c++)
            slope[c] = get(slopes, t * channels + first + c, bf16);
        for (int64_t k = 0; k < kernel; k++)
            for (int64_t c = 0; c < BLOCK; c++)
                gradient[k * BLOCK + c] += slope[c] * line[(t + k) * BLOCK + c];
    }
}

EACH_CPU static void one_convolve(const void *x, void *out, const float *taps, const float *bias, float *line,
                                  int64_t n_steps, int64_t channels, int64_t kernel, int64_t first, int64_t width,
                                  int bf16)
{
    if (bf16)
        item_convolve(x, out, taps, bias, line, n_steps, channels, kernel, first, width, 1);
    else
        item_convolve(x, out, taps, bias, line, n_steps, channels, kernel, first, width, 0);
}

EACH_CPU static void one_taps(const void *x, const void *slopes, float *gradient, float *line, int64_t n_steps,
                              int64_t channels, int64_t kernel, int64_t first, int64_t width, int bf16)
{
    if (bf16)
        item_taps(x, slopes, gradient, line, n_steps, channels, kernel, first, width, 1);
    else
        item_taps(x, slopes, gradient, line, n_steps, channels, kernel, first, width, 0);
}

static int64_t width_of(int64_t first, int64_t channels)
{
    return channels - first < BLOCK ? channels - first : BLOCK;
}

/* 0, or -1 where there was no memory. */
EXPORT int depthwise_convolve(const void *x, void *out, const float *taps, const float *bias, int64_t batch,
                              int64_t n_steps, int64_t channels, int64_t kernel, int64_t bf16, int64_t n_threads)
{
    int failed = 0;
#pragma omp parallel num_threads(n_threads) reduction(| : failed)
    {
        float *line = malloc((n_steps + kernel + STEPS) * BLOCK * sizeof(float));
        failed = !line;
#pragma omp for collapse(2)
        for (int64_t item = 0; item < batch; item++)
            for (int64_t first = 0; first < channels; first += BLOCK)
                if (line)
                    one_convolve(shifted(x, item * n_steps * channels, bf16),
                                 (void *)shifted(out, item * n_steps * channels, bf16), taps, bias, line, n_steps,
                                 channels, kernel, first, width_of(first, channels), bf16);
        free(line);
    }
    return -failed;
}

/* Gradient of the taps (kernel, channels) from that of the output. 0, or -1 where there was no memory. */
EXPORT int depthwise_taps_gradient(const void *x, const void *slopes, float *taps_gradient, int64_t batch,
                                   int64_t n_steps, int64_t channels, int64_t kernel, int64_t bf16, int64_t n_threads)
{
    int failed = 0;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic) reduction(| : failed)
    for (int64_t first = 0; first < channels; first += BLOCK) {
        float *line = malloc((n_steps + kernel + STEPS) * BLOCK * sizeof(float));
        float *gradient = calloc(kernel * BLOCK, sizeof(float));
        if (line && gradient) {
            for (int64_t item = 0; item < batch; item++)
                one_taps(shifted(x, item * n_steps * channels, bf16), shifted(slopes, item * n_steps * channels, bf16),
                         gradient, line, n_steps, channels, kernel, first, width_of(first, channels), bf16);
            for (int64_t k = 0; k < kernel; k++)
                memcpy(taps_gradient + k * channels + first, gradient + k * BLOCK,
                       width_of(first, channels) * sizeof(float));
        } else {
            failed |= 1;
        }
        free(line);
        free(gradient);
    }
    return -failed;
}
