/* Log-mel filterbanks: waveforms (batch, n_samples) -> (batch, n_frames, n_mels), as `spkver.features.Fbank` defines
   them. LANES frames are worked on side by side, a lane each, so that every step of the FFT is one of vectors. */

#include "kernels.h"

#define LANES 16
/* Kaldi's, see features.py. */
#define PREEMPHASIS 0.97f
#define FLOOR 1.1920928955078125e-7f

typedef float Lanes[LANES];

typedef struct {
    const float *waveforms, *window;
    const float *twiddles;        /* (2, n_fft / 2): cosine and sine of -2 pi k / n_fft */
    const float *mel;             /* (n_banks, n_mels, n_bins) */
    const int64_t *spans;         /* (n_banks, n_mels, 2): first bin that counts, and the one behind the last */
    const int64_t *banks;         /* (batch): which bank an item takes; NULL: the first */
    float *out;
    int64_t n_samples, n_frames, frame_length, frame_shift, n_fft, n_mels;
} Fbank;

/* The natural logarithm to 1 unit in the last place (S. Moshier's Cephes); of what is not a normal number, itself. */
INLINE float fast_log(float x)
{
    uint32_t bits = to_bits(x);
    float n = (float)((int32_t)(bits >> 23) - 126);
    float m = from_bits((bits & 0x007fffffu) | 0x3f000000u); /* in [.5, 1) */
    int small = m < 0.707106781186547524f;
    n = small ? n - 1.0f : n;
    m = (small ? m + m : m) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float square = m * m;
    float rest = p * m * square - 2.12194440e-4f * n - 0.5f * square;
    return x <= 3.4028234e38f ? m + rest + 0.693359375f * n : x;
}

/* A frame's samples, windowed, into lane `lane`: even ones to `real`, odd ones to `imag`, in bit-reversed order. */
INLINE void lay_out(const Fbank *fbank, const float *samples, float *line, const int32_t *reversed, Lanes *real,
                    Lanes *imag, int64_t lane)
{
    int64_t length = fbank->frame_length, half = fbank->n_fft / 2;
    float sum = 0.0f, part[LANES] = {0};
    for (int64_t i = 0; i + LANES <= length; i += LANES)
        for (int64_t k = 0; k < LANES; k++)
            part[k] += samples[i + k];
    for (int64_t k = 0; k < LANES; k++)
        sum += part[k];
    for (int64_t i = length / LANES * LANES; i < length; i++)
        sum += samples[i];
    /* Of a frame without its mean; the first sample follows itself. */
    float offset = (1.0f - PREEMPHASIS) * sum / (float)length;
    for (int64_t i = 1; i < length; i++)
        line[i] = (samples[i] - PREEMPHASIS * samples[i - 1] - offset) * fbank->window[i];
    line[0] = ((1.0f - PREEMPHASIS) * samples[0] - offset) * fbank->window[0];
    for (int64_t i = length; i < fbank->n_fft; i++)
        line[i] = 0.0f;
    for (int64_t i = 0; i < half; i++) {
        real[reversed[i]][lane] = line[2 * i];
        imag[reversed[i]][lane] = line[2 * i + 1];
    }
}

INLINE void butterflies(Lanes *restrict real, Lanes *restrict imag, Lanes *restrict real_far, Lanes *restrict imag_far,
                        float cosine, float sine)
{
    for (int64_t lane = 0; lane < LANES; lane++) {
        float turned_real = (*real_far)[lane] * cosine - (*imag_far)[lane] * sine;
        float turned_imag = (*real_far)[lane] * sine + (*imag_far)[lane] * cosine;
        (*real_far)[lane] = (*real)[lane] - turned_real;
        (*imag_far)[lane] = (*imag)[lane] - turned_imag;
        (*real)[lane] += turned_real;
        (*imag)[lane] += turned_imag;
    }
}

/* In place, of n_fft / 2 complex numbers in bit-reversed order (Cooley & Tukey, 1965). */
INLINE void transform(const Fbank *fbank, Lanes *real, Lanes *imag)
{
    int64_t half = fbank->n_fft / 2;
    const float *cosines = fbank->twiddles, *sines = cosines + half;
    for (int64_t distance = 1; distance < half; distance *= 2)
        for (int64_t start = 0; start < half; start += 2 * distance)
            for (int64_t k = 0; k < distance; k++) {
                int64_t turn = k * (half / distance), near = start + k, far = near + distance;
                butterflies(real + near, imag + near, real + far, imag + far, cosines[turn], sines[turn]);
            }
}

/* Of the whole frame's spectrum from that of its even and odd samples: power of bins 0 to n_fft / 2. */
INLINE void power_of(const Fbank *fbank, Lanes *real, Lanes *imag, Lanes *power)
{
    int64_t half = fbank->n_fft / 2;
    for (int64_t lane = 0; lane < LANES; lane++) {
        float sum = real[0][lane] + imag[0][lane], difference = real[0][lane] - imag[0][lane];
        power[0][lane] = sum * sum;
        power[half][lane] = difference * difference;
    }
    for (int64_t bin = 1; bin < half; bin++) {
        float cosine = fbank->twiddles[bin], sine = fbank->twiddles[half + bin];
        const float *re = real[bin], *im = imag[bin], *mirror_re = real[half - bin], *mirror_im = imag[half - bin];
        for (int64_t lane = 0; lane < LANES; lane++) {
            float even_re = re[lane] + mirror_re[lane], even_im = im[lane] - mirror_im[lane];
            float odd_re = im[lane] + mirror_im[lane], odd_im = mirror_re[lane] - re[lane];
            float sum_re = even_re + odd_re * cosine - odd_im * sine;
            float sum_im = even_im + odd_re * sine + odd_im * cosine;
            power[bin][lane] = 0.25f * (sum_re * sum_re + sum_im * sum_im);
        }
    }
}

INLINE void write_mels(const Fbank *fbank, int64_t item, int64_t frame, const Lanes *power)
{
    int64_t n_bins = fbank->n_fft / 2 + 1, n_mels = fbank->n_mels, bank = fbank->banks ? fbank->banks[item] : 0;
    int64_t n_lanes = fbank->n_frames - frame < LANES ? fbank->n_frames - frame : LANES;
    float *out = fbank->out + (item * fbank->n_frames + frame) * n_mels;
    for (int64_t m = 0; m < n_mels; m++) {
        const float *weight = fbank->mel + (bank * n_mels + m) * n_bins;
        const int64_t *span = fbank->spans + (bank * n_mels + m) * 2;
        float sum[LANES] = {0};
        for (int64_t bin = span[0]; bin < span[1]; bin++)
            for (int64_t lane = 0; lane < LANES; lane++)
                sum[lane] += weight[bin] * power[bin][lane];
        for (int64_t lane = 0; lane < LANES; lane++)
            sum[lane] = fast_log(sum[lane] < FLOOR ? FLOOR : sum[lane]);
        for (int64_t lane = 0; lane < n_lanes; lane++)
            out[lane * n_mels + m] = sum[lane];
    }
}

/* Up to LANES frames of an item from `frame` on; `room`: 3 * (n_fft / 2 + 1) Lanes and n_fft floats. */
EACH_CPU static void some_frames(const Fbank *fbank, int64_t item, int64_t frame, const int32_t *reversed, float *room)
{
    int64_t n_bins = fbank->n_fft / 2 + 1;
    Lanes *real = (Lanes *)room, *imag = real + n_bins, *power = imag + n_bins;
    for (int64_t lane = 0; lane < LANES; lane++) {
        /* Lanes beyond the last frame repeat it. */
        int64_t at = frame + lane < fbank->n_frames ? frame + lane : fbank->n_frames - 1;
        const float *samples = fbank->waveforms + item * fbank->n_samples + at * fbank->frame_shift;
        lay_out(fbank, samples, (float *)(power + n_bins), reversed, real, imag, lane);
    }
    transform(fbank, real, imag);
    power_of(fbank, real, imag, power);
    write_mels(fbank, item, frame, power);
}

static void reverse_bits(int32_t *reversed, int64_t n)
{
    reversed[0] = 0;
    for (int64_t known = 1; known < n; known *= 2)
        for (int64_t i = 0; i < known; i++) {
            reversed[i] *= 2;
            reversed[known + i] = reversed[i] + 1;
        }
}

/* 0, or -1 where there was no memory. */
EXPORT int log_mel(const float *waveforms, const float *window, const float *twiddles, const float *mel,
                   const int64_t *spans, const int64_t *banks, float *out, int64_t batch, int64_t n_samples,
                   int64_t n_frames, int64_t frame_length, int64_t frame_shift, int64_t n_fft, int64_t n_mels,
                   int64_t bf16, int64_t n_threads)
{
    (void)bf16; /* waveforms are float32 */
    Fbank fbank = {.waveforms = waveforms, .window = window, .twiddles = twiddles, .mel = mel, .spans = spans,
                   .banks = banks, .out = out, .n_samples = n_samples, .n_frames = n_frames,
                   .frame_length = frame_length, .frame_shift = frame_shift, .n_fft = n_fft, .n_mels = n_mels};
    int64_t n_floats = 3 * (n_fft / 2 + 1) * LANES + n_fft;
    int32_t *reversed = malloc(n_fft / 2 * sizeof(int32_t));
    int failed = !reversed;
    if (reversed)
        reverse_bits(reversed, n_fft / 2);
#pragma omp parallel num_threads(n_threads) reduction(| : failed)
    {
        float *room = malloc(n_floats * sizeof(float));
        failed |= !room;
#pragma omp for collapse(2)
        for (int64_t item = 0; item < batch; item++)
            for (int64_t frame = 0; frame < n_frames; frame += LANES)
                if (room && reversed)
                    some_frames(&fbank, item, frame, reversed, room);
        free(room);
    }
    free(reversed);
    return -failed;
}
