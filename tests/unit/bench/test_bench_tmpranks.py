from hunting_kit import CAPTIONS
def test_r(local, client):
    ids=list(CAPTIONS)
    res={t:[h.image_id for h in client.search("gallery",t,top_k=30).hits] for ts in CAPTIONS.values() for t in ts}
    for shift in range(8):
        print(shift,[[res[t].index(i)+1 for t in CAPTIONS[o]] for i,o in zip(ids,ids[shift:]+ids[:shift])])
